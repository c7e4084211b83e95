# Two commands do everything on a fresh machine: `make repro` and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/sh
TOOLS := .tools
BACKEND ?= $(if $(filter Darwin,$(shell uname -s)),,cpu)
EXTRAS := $(if $(BACKEND),--extra $(BACKEND))
UV := $(shell command -v uv 2>/dev/null || echo $(TOOLS)/bin/uv)
RUN := . .venv/bin/activate &&
PYTEST := python -m pytest --numprocesses=logical --maxprocesses=8 --dist=loadfile --no-loadscope-reorder

.PHONY: help env repro test test-all lint system readers clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

env: .venv/.ready ## make .venv with everything in uv.lock (BACKEND=cuda12 or cuda13 for a GPU)

.venv/.ready: pyproject.toml uv.lock
	@command -v $(UV) >/dev/null || { echo "installing uv into $(TOOLS)"; \
	  python3 -m venv $(TOOLS) && $(TOOLS)/bin/pip install --quiet uv; }
	$(UV) sync --frozen --inexact $(EXTRAS) --python "$$(command -v python3)"
	@touch $@

repro: env ## run the whole pipeline: prepare, weights, train, export, validate, benchmark
	$(RUN) python -m stages.params
	$(RUN) dvc repro

test: env ## run the test suite
	$(RUN) $(PYTEST)

test-all: env ## run the test suite with the exhaustive sweeps
	$(RUN) $(PYTEST) --exhaustive

lint: env ## check format, style and types
	$(RUN) ruff format --check && ruff check && pyright

system: ## install what the tests of faults need (Debian: strace, libfaketime); needs root
	@command -v strace >/dev/null && ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 \
	  || { apt-get update -q && apt-get install -y -q --no-install-recommends strace libfaketime; }

readers: .venv/.readers ## install the independent readers that some tests compare with

.venv/.readers: .venv/.ready readers.txt
	python3 -m pip --python .venv/bin/python install --quiet --requirement readers.txt
	@touch $@

clean: ## delete caches, runs and the environment; data/, models/ and the DVC cache stay
	rm -rf .venv $(TOOLS) runs .checkpoints .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

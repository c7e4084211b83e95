"""Small real parts for every test: a tiny Llama, a token store, the samples folder."""

import os
import signal
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parents[1]
os.environ["XDG_CACHE_HOME"] = str(ROOT / ".pytest_cache/home")  # not the user's own
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # tests run at the same time

MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "pipeline").rglob("*.py"))
    # The plan's count of memory has no arrays, and checks of its many small calls take minutes.
    if path.stem != "__init__" and path.parent.name != "plan"
]
install_import_hook(MODULES, "beartype.beartype")  # shapes and types are checked at each call

from pipeline.data.store import TokenStore, TokenStoreWriter  # noqa: E402
from pipeline.device import mx  # noqa: E402
from pipeline.model.scratch import initialize, llama_config, save_scratch  # noqa: E402
from tests.support.real import real_run  # noqa: E402, F401
from tests.support.repository import smoke  # noqa: E402, F401
from tests.support.small import TINY_SHAPE, random_documents  # noqa: E402
from tests.support.smollm2 import (  # noqa: E402, F401
    smollm2,
    smollm2_base,
    smollm2_float32,
    smollm2_rows,
    smollm2_run,
)
from tests.support.training import real_world, training, undisturbed, world  # noqa: E402, F401

LONGEST = (
    "test_docs",
    "test_interruptions",
    "test_predict",
    "test_real_model",
    "test_stages",
    "test_supervisor",
)


def pytest_addoption(parser):
    parser.addoption("--exhaustive", action="store_true", help="run the long sweeps too")
    parser.addoption("--write-models", action="store_true", help="write docs/models.md anew")


def pytest_configure(config):
    config.addinivalue_line("markers", "exhaustive: a long sweep, run by `make test-all`")
    config.addinivalue_line("markers", "real: needs the samples; `make test-real` runs only these")
    config.addinivalue_line("markers", "docs: runs a command of the documents; `make test-docs`")
    # A job in the background ignores these, and so would each process that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    mx.disable_compile()  # the kernels it would build take longer than the tests


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by marks
def pytest_collection_modifyitems(config, items):
    for item in items:
        if {"samples", "smollm2"} & set(item.fixturenames):
            item.add_marker("real")
    items.sort(key=lambda item: item.path.stem not in LONGEST)  # so that no process ends alone
    if not config.getoption("--exhaustive"):
        skip = pytest.mark.skip(reason="a long sweep: run `make test-all`")
        for item in items:
            if "exhaustive" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def samples():
    """The folder of real samples, which is no part of this repository."""
    folder = (ROOT / os.environ.get("TIDEWHEEL_SAMPLES", "../shared")).resolve()
    if not (folder / "models/stories260K").is_dir():
        pytest.skip(f"no samples in {folder}; name their folder in TIDEWHEEL_SAMPLES")
    return folder


@pytest.fixture
def tiny_config():
    return llama_config(TINY_SHAPE, 64, {"bos_token_id": 1, "eos_token_id": 2})


@pytest.fixture
def tiny_model(tiny_config):
    return initialize(tiny_config, seed=0)


@pytest.fixture
def model_folder(tmp_path, tiny_model, tiny_config):
    """A whole model folder, the tokenizer apart."""
    folder = tmp_path / "model"
    folder.mkdir()
    save_scratch(tiny_model, tiny_config, folder)
    return folder


@pytest.fixture
def make_store(tmp_path):
    """Write a token store of random documents, half of them with provenance."""

    def make(name="train", count=24, seed=0, **lengths):
        with TokenStoreWriter(tmp_path / name, 64) as writer:
            for index, (ids, mask) in enumerate(random_documents(count, seed, **lengths)):
                provenance = (0.9, 1.0) if index % 4 == 0 else (0.1, 6.0)
                writer.add(ids, mask, *(provenance if index % 2 == 0 else (None, None)))
        return TokenStore(tmp_path / name)

    return make


@pytest.fixture
def readers():
    """Import a library that reads what we write; `make readers` installs them."""

    def find(name):
        return pytest.importorskip(name, reason=f"{name} is absent: run `make readers`")

    return find

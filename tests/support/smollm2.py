"""SmolLM2-135M-Instruct, which `make smollm2` fetches."""

import pytest

from pipeline.data.tokenize.tokenizer import tokenizer_hash
from pipeline.external.gguf.convert import converted
from pipeline.model.base import write_manifest
from tests.support.gguf_files import write_float32_copy
from tools.fetch_smollm2 import FILE


@pytest.fixture(scope="session")
def smollm2():
    """The GGUF file of the model."""
    if not FILE.is_file():
        pytest.skip("SmolLM2 is absent: run `make smollm2`")
    return FILE


@pytest.fixture(scope="session")
def smollm2_float32(smollm2, tmp_path_factory):
    """The same GGUF file with every tensor in float32."""
    path = tmp_path_factory.mktemp("smollm2") / "float32.gguf"
    write_float32_copy(smollm2, path)
    return path


@pytest.fixture(scope="session")
def smollm2_base(smollm2, tmp_path_factory):
    """A folder as the stage weights leaves it; the weights lie where the file is converted to."""
    base, folder = tmp_path_factory.mktemp("base"), converted(smollm2)
    write_manifest(base, folder, str(smollm2), tokenizer_hash(folder))
    return base

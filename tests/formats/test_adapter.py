"""The trained weights in mlx-lm's adapter format, for `mlx_lm.generate --adapter-path`."""

import json

import pytest

from pipeline.device import mx
from pipeline.errors import ExportError
from pipeline.files import read_json
from pipeline.formats import adapter
from pipeline.model.network.adapters import load_adapter
from pipeline.model.network.base import load_base
from tests.support.exports import (
    FORMATS,
    TOKENS,
)


@pytest.mark.parametrize("kind", ["float32", "quantised"])
def test_mlx_lm_could_not_load_such_a_head_as_an_adapter(make_workplace, kind):
    workplace = make_workplace(kind, "head")
    message = (
        r"adapter: the trained head is a separate matrix, .*\n"
        r"Use export\.formats=\[fused\]\."
    )
    with pytest.raises(ExportError, match=message):
        workplace.export(FORMATS)
    assert not workplace.exported.exists() or not list(workplace.exported.iterdir())
    with pytest.raises(ValueError, match=r"lm_head\.weight: not an adapter parameter"):
        adapter.read_back(workplace.base, workplace.trained)


def test_a_head_that_is_not_tied_is_an_adapter_that_mlx_lm_reads(make_workplace, tiny_config):
    tiny_config["tie_word_embeddings"] = False
    workplace = make_workplace("float32", "head")
    metrics = workplace.export(FORMATS)
    assert metrics["adapter"]["adapter_share"] == pytest.approx(1, abs=1e-4)
    assert workplace.config["tie_word_embeddings"] is False


def test_the_adapter_is_used_by_mlx_lm_as_it_is(workplace):
    workplace.export(["adapter"])
    config = read_json(workplace.exported / "adapter/adapter_config.json")
    assert config["model"] == "some/source"
    assert config["lora_parameters"]["scale"] == 2.0
    model = adapter.read_back(workplace.base, workplace.exported / "adapter")
    assert mx.array_equal(model(TOKENS), workplace.tuned(TOKENS))


def test_an_exported_adapter_loads_onto_our_base_too(workplace):
    workplace.export(["adapter"])
    model = load_base(workplace.base, "float32").model
    load_adapter(model, workplace.exported / "adapter")
    assert mx.array_equal(model(TOKENS), workplace.tuned(TOKENS))
    assert json.loads((workplace.trained / "adapter_config.json").read_text()).get("model") is None

"""Exports: read back by another program they are the trained model, or they are not written."""

import gc
import weakref

import numpy as np
import pytest

from pipeline.config.schema import EXPORT_FORMATS
from pipeline.device import mx
from pipeline.files import sha256_path
from pipeline.formats import export as module
from pipeline.formats.export import WRITERS
from pipeline.formats.logits import logits_of
from pipeline.model.network.base import load_base, write_manifest
from tests.support.exports import (
    FORMATS,
    TOKENS,
)
from tests.support.modes import MODES, settings_of

# What is written is what was trained


def test_every_format_that_may_be_asked_for_has_a_writer():
    assert WRITERS.keys() == EXPORT_FORMATS.keys()


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("float32", "lora"),
        *(("float32", mode) for mode in MODES if mode not in {"lora", "head"}),
        ("bfloat16", "lora"),
        ("bfloat16", "full"),
        ("float16", "lora"),
        ("quantised", "lora"),
        ("quantised", "dora"),
        ("bfloat16", "dora"),
    ],
)
def test_every_format_is_proven(make_workplace, kind, mode):
    metrics = make_workplace(kind, mode).export(FORMATS)
    settings = settings_of(mode)
    assert metrics["fine_tune_type"] == ("full" if settings.trains_matrices else settings.mode)
    for name in FORMATS:
        proof = metrics[name]
        assert proof["adapter_effect"] > 0.1
        exact = name == "adapter" or kind in {"float32", "quantised"}
        if exact:
            limit = 2e-5 * max(proof["logit_std"], proof["adapter_effect"])
            assert proof["max_abs_logit_difference"] <= limit
        assert proof["adapter_share"] == pytest.approx(1, abs=1e-4 if exact else 0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("mode", ["full", "tensors", "lora"])
def test_weights_that_were_trained_in_16_bits_are_exported(make_workplace, dtype, mode):
    """They took the place of the base's float32, and gave logits in 16 bits."""
    workplace = make_workplace("float32", mode)
    path = str(workplace.trained / "adapters.safetensors")
    dtype = getattr(mx, dtype)
    mx.save_safetensors(path, {name: v.astype(dtype) for name, v in mx.load(path).items()})
    metrics = workplace.export(FORMATS)
    for name in FORMATS:
        limit = 2e-5 * max(metrics[name]["logit_std"], metrics[name]["adapter_effect"])
        assert metrics[name]["max_abs_logit_difference"] <= limit


def test_one_model_is_in_memory_at_a_time(workplace, monkeypatch):
    models = []

    def counted(model, inputs, folder):
        models.append(weakref.ref(model))
        gc.collect()
        assert [each() for each in models[:-1]] == [None] * (len(models) - 1)
        return logits_of(model, inputs, folder)

    monkeypatch.setattr(module, "logits_of", counted)
    workplace.export(FORMATS)
    assert len(models) == 2 + len(FORMATS)


# Exports that must fail


def test_exporting_changes_neither_base_nor_adapter(workplace):
    before = [sha256_path(path) for path in (workplace.base, workplace.trained, workplace.source)]
    workplace.export(FORMATS)
    after = [sha256_path(path) for path in (workplace.base, workplace.trained, workplace.source)]
    assert before == after


# The measure itself


# Read by another library


def test_a_base_saved_by_transformers_is_read(tmp_path, tiny_config, readers):
    torch = readers("torch")
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    settings = {name: value for name, value in tiny_config.items() if name != "torch_dtype"}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**settings)).eval()
    model.save_pretrained(tmp_path / "theirs", max_shard_size="8KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    (tmp_path / "base").mkdir()
    write_manifest(tmp_path / "base", tmp_path / "theirs", "theirs", "hash")
    ours = np.array(load_base(tmp_path / "base", "float32").model(TOKENS))
    with torch.no_grad():
        theirs = model(torch.tensor(TOKENS.tolist())).logits.numpy()
    assert np.abs(theirs - ours).max() < 2e-5 * theirs.std()

"""Exports: read back by another program they are the trained model, or they are not written."""

import json

import numpy as np
import pytest

from pipeline.config.schema import EXPORT_FORMATS
from pipeline.device import mx, nn
from pipeline.errors import ExportError
from pipeline.files import read_json, sha256_path, write_json
from pipeline.formats import adapter, fused
from pipeline.formats.export import (
    PROOF_DOCUMENTS,
    PROOF_TOKENS,
    WRITERS,
    export,
    proof_inputs,
)
from pipeline.formats.proof import Proof, compare, projection, require_agreement
from pipeline.model import upstream
from pipeline.model.adapters import apply, load_adapter, save_adapter
from pipeline.model.base import load_base, write_manifest
from pipeline.model.folder import INDEX
from pipeline.model.forward import forward
from pipeline.model.scratch import initialize
from pipeline.model.tree import named_arrays, trainable_arrays
from tests.support.modes import MODES, settings_of

TOKENS = mx.array([[1, 5, 9, 33, 2, 60, 7, 8]])
FORMATS = list(EXPORT_FORMATS)


def stored(kind, config):
    """Make a base as it is stored, and its config.json: float32, 16 bits, 4 bits, experts."""
    config = {**config, "hidden_size": 64, "intermediate_size": 64}
    if kind == "experts":
        config |= {"model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2}
    model = initialize(config, seed=0)
    if kind in {"bfloat16", "float16"}:
        model.set_dtype(getattr(mx, kind))
        config["torch_dtype"] = kind
    if kind == "quantised":
        nn.quantize(model, group_size=32, bits=4)
        config["quantization"] = {"group_size": 32, "bits": 4}
    return model, config


class Workplace:
    """A base, an adapter trained on it, and prepared data, as the stages leave them."""

    def __init__(self, folder, config, kind, mode, settings):
        self.base, self.trained = folder / "base", folder / "trained"
        self.prepared, self.exported = folder, folder / "export"
        self.base.mkdir()
        self.source = folder / "source"
        self.source.mkdir()
        model, self.config = stored(kind, config)
        weights = named_arrays(model.parameters())
        mx.save_safetensors(str(self.source / "model.safetensors"), weights)
        write_json(self.source / "config.json", self.config)
        (self.base / "tokenizer.json").write_text("{}")
        write_manifest(self.base, self.source, "some/source", "hash")
        tuned = load_base(self.base, "float32").model
        adapter_config = apply(tuned, settings_of(mode, **settings), seed=1)
        key = mx.random.key(2)
        for name, value in trainable_arrays(tuned).items():
            key, own = mx.random.split(key)
            moved = value + mx.random.normal(value.shape, scale=0.05, key=own)
            tuned.load_weights([(name, moved)], strict=False)
        save_adapter(self.trained, trainable_arrays(tuned), adapter_config)
        self.tuned = tuned

    def export(self, formats):
        return export(self.base, self.trained, self.prepared, formats, self.exported.joinpath)


@pytest.fixture
def make_workplace(tmp_path, tiny_config, make_store):
    make_store("validation", count=12, seed=1)
    make_store("test", count=10, seed=2)

    def make(kind="float32", mode="lora", **settings):
        return Workplace(tmp_path, tiny_config, kind, mode, settings)

    return make


@pytest.fixture
def workplace(make_workplace):
    return make_workplace()


def largest(difference):
    return float(mx.abs(difference).max())


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


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "quantised"])
def test_a_tied_or_quantised_head_is_exported_as_one_of_its_own(make_workplace, kind):
    workplace = make_workplace(kind, "head")
    proof = workplace.export(["fused"])["fused"]
    assert proof["adapter_effect"] > 0.1
    config = read_json(workplace.exported / "fused/config.json")
    assert config["tie_word_embeddings"] is False
    weights = mx.load(str(workplace.exported / "fused/model.safetensors"))
    embedding, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    assert embedding.shape == head.shape
    assert not mx.array_equal(embedding, head)
    if kind != "quantised":
        source = mx.load(str(workplace.source / "model.safetensors"))
        assert mx.array_equal(embedding, source["model.embed_tokens.weight"])


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


def test_experts_are_exported_too(make_workplace):
    metrics = make_workplace("experts").export(FORMATS)
    proof = metrics["fused"]
    allowed = 2e-5 * max(proof["logit_std"], proof["adapter_effect"])
    assert proof["max_abs_logit_difference"] < allowed


def test_the_difference_is_the_one_mlx_lm_gives(workplace):
    metrics = workplace.export(["fused"])
    model, _ = upstream.load_model(workplace.exported / "fused", strict=True)
    inputs = proof_inputs_of(workplace)
    base, tuned = load_base(workplace.base, "float32").model, workplace.tuned
    found = largest(forward(model, inputs) - forward(tuned, inputs))
    effect = largest(forward(base, inputs) - forward(tuned, inputs))
    assert metrics["fused"]["max_abs_logit_difference"] == pytest.approx(found, abs=1e-6)
    assert metrics["fused"]["adapter_effect"] == pytest.approx(effect, abs=1e-5)


def proof_inputs_of(workplace):
    from pipeline.data.store import held_out_store

    return proof_inputs(held_out_store(workplace.prepared))


def test_the_adapter_is_used_by_mlx_lm_as_it_is(workplace):
    workplace.export(["adapter"])
    config = read_json(workplace.exported / "adapter/adapter_config.json")
    assert config["model"] == "some/source"
    assert config["lora_parameters"]["scale"] == 2.0
    model = adapter.read_back(workplace.base, workplace.exported / "adapter")
    assert mx.array_equal(model(TOKENS), workplace.tuned(TOKENS))


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_the_fused_folder_keeps_the_type_of_its_base(make_workplace, kind):
    workplace = make_workplace(kind)
    workplace.export(["fused"])
    folder = workplace.exported / "fused"
    weights = mx.load(str(folder / "model.safetensors"))
    assert {str(value.dtype) for value in weights.values()} == {f"mlx.core.{kind}"}
    assert read_json(folder / "config.json") == {**workplace.config, "torch_dtype": kind}
    assert read_json(folder / INDEX)["weight_map"].keys() == weights.keys()
    assert (folder / "tokenizer.json").read_text() == "{}"


def test_a_16_bit_weight_is_rounded_once(make_workplace):
    workplace = make_workplace("bfloat16", targets=("q_proj",))
    workplace.export(["fused"])
    layer = workplace.tuned.layers[0].self_attn.q_proj
    exact = layer.linear.weight + 2.0 * (layer.lora_a @ layer.lora_b).T
    weights = mx.load(str(workplace.exported / "fused/model.safetensors"))
    found = weights["model.layers.0.self_attn.q_proj.weight"]
    assert mx.array_equal(found, exact.astype(mx.bfloat16))


def test_a_quantised_base_is_fused_into_plain_weights(make_workplace):
    workplace = make_workplace("quantised", targets=("q_proj",))
    workplace.export(["fused"])
    weights = mx.load(str(workplace.exported / "fused/model.safetensors"))
    assert not any(name.endswith(("scales", "biases")) for name in weights)
    assert {value.dtype for value in weights.values()} == {mx.float32}
    assert "quantization" not in read_json(workplace.exported / "fused/config.json")


def test_the_proof_takes_rows_of_held_out_text(make_store):
    store = make_store(count=PROOF_DOCUMENTS + 3, shortest=4, longest=PROOF_TOKENS + 40)
    inputs = np.array(proof_inputs(store))
    assert inputs.shape == (PROOF_DOCUMENTS, min(PROOF_TOKENS, store.lengths[:8].max()))
    for row, ids in enumerate(inputs):
        length = min(store.lengths[row], inputs.shape[1])
        assert ids[:length].tolist() == store.tokens(row)[:length].tolist()
        assert not ids[length:].any()


# Exports that must fail


def lose_adapter(model):
    """Drop every adapter, as fusing into rounded weights can."""
    from mlx_lm.tuner.utils import remove_lora_layers

    remove_lora_layers(model)


def halve_adapter(model):
    """Fuse with half the scale."""
    for _, module in model.named_modules():
        if "lora_a" in module:
            module.scale /= 2
    fuse_truly(model)


fuse_truly = fused.fuse


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "quantised"])
@pytest.mark.parametrize("fault", [lose_adapter, halve_adapter])
def test_a_fused_model_that_lost_its_adapter_is_refused(make_workplace, monkeypatch, kind, fault):
    workplace = make_workplace(kind)
    monkeypatch.setattr(fused, "fuse", fault)
    message = (
        r"fused: read back, its logits differ from the trained model's by [\d.e+-]+, and [-\d.]+% "
        r"of what training changed \(by up to [\d.e+-]+\) is there; (10% of the share|[\d.e+-]+) "
        r"is allowed\.\nNothing was written"
    )
    with pytest.raises(ExportError, match=message):
        workplace.export(["fused"])
    assert not (workplace.exported / "fused").exists()
    assert list(workplace.exported.iterdir()) == []


def test_an_earlier_export_outlives_a_refused_one(workplace, monkeypatch):
    workplace.export(FORMATS)
    before = sha256_path(workplace.exported)
    monkeypatch.setattr(fused, "fuse", lose_adapter)
    with pytest.raises(ExportError, match="fused: read back"):
        workplace.export(FORMATS)
    assert sha256_path(workplace.exported) == before


def test_a_damaged_file_is_refused(workplace, monkeypatch):
    def save_damaged(folder, model):
        model.model.norm.weight = model.model.norm.weight * float("nan")
        upstream.save_model(folder, model)

    monkeypatch.setattr(fused, "save_model", save_damaged)
    with pytest.raises(ExportError, match=r"differ from the trained model's by nan"):
        workplace.export(["fused"])


def test_exporting_changes_neither_base_nor_adapter(workplace):
    before = [sha256_path(path) for path in (workplace.base, workplace.trained, workplace.source)]
    workplace.export(FORMATS)
    after = [sha256_path(path) for path in (workplace.base, workplace.trained, workplace.source)]
    assert before == after


# The measure itself


def test_a_proof_compares_with_what_it_is_given(tiny_model):
    tuned = forward(tiny_model, TOKENS)
    proof = compare(tuned - 3.0, tuned + 0.5, tiny_model, TOKENS)
    assert proof.max_abs_logit_difference == pytest.approx(0.5, abs=1e-6)
    assert proof.adapter_effect == pytest.approx(3.5, abs=1e-6)
    assert proof.adapter_share == pytest.approx(3 / 3.5, rel=1e-5)
    assert proof.logit_std == pytest.approx(float(mx.std(tuned)), rel=1e-5)


def test_rounding_noise_is_not_a_lost_adapter():
    change = mx.random.normal((1000,), key=mx.random.key(1))
    noise = mx.random.normal((1000,), key=mx.random.key(2))
    assert projection(change + noise, change) == pytest.approx(1, abs=0.1)
    assert projection(noise, change) == pytest.approx(0, abs=0.1)
    assert projection(noise, mx.zeros_like(noise)) == 1


@pytest.mark.parametrize(
    ("difference", "effect", "share", "rounded", "agrees"),
    [
        (0.0, 0.5, 1.0, False, True),
        (1.9e-5, 0.5, 1.0, False, True),
        (2.1e-5, 0.5, 1.0, False, False),
        (2.1e-5, 2.0, 1.0, False, True),
        (0.3, 0.5, 0.91, True, True),
        (0.3, 0.5, 0.89, True, False),
        (0.3, 0.5, 1.11, True, False),
        (float("nan"), 0.5, float("nan"), True, False),
        (float("inf"), 0.5, 1.0, False, False),
    ],
)
def test_what_is_allowed(difference, effect, share, rounded, agrees):
    proof = Proof(difference, adapter_effect=effect, adapter_share=share, logit_std=1.0)
    if agrees:
        require_agreement("some", proof, rounded)
    else:
        with pytest.raises(ExportError, match="some: read back, its logits differ"):
            require_agreement("some", proof, rounded)


# Read by another library


@pytest.mark.parametrize(
    ("kind", "tied", "mode"),
    [
        ("float32", True, "lora"),
        ("float32", False, "lora"),
        ("bfloat16", True, "lora"),
        ("quantised", False, "lora"),
        ("float32", True, "head"),
        ("float32", True, "dora, embeddings"),
    ],
)
def test_transformers_reads_the_fused_folder(
    make_workplace, tiny_config, readers, kind, tied, mode
):
    torch = readers("torch")
    tiny_config["tie_word_embeddings"] = tied
    workplace = make_workplace(kind, mode)
    workplace.export(["fused"])
    from transformers import AutoModelForCausalLM

    folder = workplace.exported / "fused"
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        theirs = model(torch.tensor(TOKENS.tolist())).logits.numpy()
    ours = np.array(fused.read_back(folder)(TOKENS))
    assert np.abs(theirs - ours).max() < 2e-5 * ours.std()


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


def test_an_exported_adapter_loads_onto_our_base_too(workplace):
    workplace.export(["adapter"])
    model = load_base(workplace.base, "float32").model
    load_adapter(model, workplace.exported / "adapter")
    assert mx.array_equal(model(TOKENS), workplace.tuned(TOKENS))
    assert json.loads((workplace.trained / "adapter_config.json").read_text()).get("model") is None

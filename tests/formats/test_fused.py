"""Base and adapter fused into one Hugging Face folder of safetensors."""

import numpy as np
import pytest
from mlx_lm.models.llama import Model

from pipeline.device import mx
from pipeline.errors import ExportError
from pipeline.files import read_json, sha256_path, write_json
from pipeline.formats import fused
from pipeline.model.network import upstream
from pipeline.model.network.base import load_base
from pipeline.model.network.forward import forward
from pipeline.model.source.folder import INDEX
from tests.support.exports import (
    FORMATS,
    TOKENS,
    fuse_truly,
    halve_adapter,
    largest,
    lose_adapter,
    proof_inputs_of,
)


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


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_the_fused_folder_keeps_the_type_of_its_base(make_workplace, kind):
    workplace = make_workplace(kind)
    workplace.export(["fused"])
    folder = workplace.exported / "fused"
    weights = mx.load(str(folder / "model.safetensors"))
    assert {str(value.dtype) for value in weights.values()} == {f"mlx.core.{kind}"}
    assert read_json(folder / "config.json") == workplace.config
    assert read_json(folder / INDEX)["weight_map"].keys() == weights.keys()
    assert (folder / "tokenizer.json").read_text() == "{}"


def test_the_tokenizer_is_copied_without_code_of_its_own(workplace):
    more = "additional_chat_templates/tool_use.jinja"
    (workplace.base / more).parent.mkdir()
    (workplace.base / more).write_text("{{ tools }}")
    settings = {"auto_map": {"AutoTokenizer": ["a.B", None]}, "eos_token": "</s>"}
    write_json(workplace.base / "tokenizer_config.json", settings)
    workplace.export(["fused"])
    folder = workplace.exported / "fused"
    assert (folder / more).read_text() == "{{ tools }}"
    assert read_json(folder / "tokenizer_config.json") == {"eos_token": "</s>"}


def test_weights_that_cannot_be_told_from_the_files_are_refused(workplace, monkeypatch):
    def scaled(self, weights):
        return {name: value * 2 for name, value in weights.items()}

    monkeypatch.setattr(Model, "sanitize", scaled)
    message = (
        r"fused: These tensors are not moved but changed as they are read:\n"
        r"(  .*: its numbers are read 2 to 2 times\n)+.*Use export\.formats=\[adapter\]\."
    )
    with pytest.raises(ExportError, match=message):
        workplace.export(["fused"])
    assert not (workplace.exported / "fused").exists()


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


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "quantised"])
@pytest.mark.parametrize("fault", [lose_adapter, halve_adapter])
def test_a_fused_model_that_lost_its_adapter_is_refused(make_workplace, monkeypatch, kind, fault):
    workplace = make_workplace(kind)
    monkeypatch.setattr(fused, "fuse", fault)
    message = (
        r"fused: read back, its logits differ from the trained model's by [\d.e+-]+\. It has "
        r"[-\d.]+% of what training changed \(by up to [\d.e+-]+\)\. Allowed: (10% more or less"
        r"|a difference of [\d.e+-]+)\.\nNothing was written"
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
    def fuse_damaged(model):
        fuse_truly(model)
        model.model.norm.weight = model.model.norm.weight * float("nan")

    monkeypatch.setattr(fused, "fuse", fuse_damaged)
    with pytest.raises(ExportError, match=r"differ from the trained model's by nan"):
        workplace.export(["fused"])


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

"""Code that comes with a model is never run, whatever the folder says and a person answers."""

import ast
import re
import sys

import pytest

from pipeline.config.outputs import seal
from pipeline.errors import ModelError
from pipeline.files import ROOT, read_json, write_json
from pipeline.model.network.adapters import AdapterSettings, apply, save_adapter
from pipeline.model.network.base import load_base
from pipeline.model.network.tree import named_arrays
from pipeline.model.own_code import code_notice, is_tokenizer
from pipeline.model.source.folder import read_config
from tests.support.foreign_code import (
    AUTO_MAP,
    TOKENIZER_MAP,
    at_a_terminal,
    name_code,
    published,
    write_rows,
)

UNKNOWN_TO_TRANSFORMERS = "internlm2"
"""An architecture that mlx-lm has; transformers asks whether to run the code that has it."""


@pytest.fixture
def folder(tmp_path):
    return published(tmp_path / "phi3", tmp_path / "was run")


def test_a_folder_without_code_has_no_notice(model_folder):
    assert code_notice(model_folder) is None


def test_code_that_is_not_needed_is_named(folder):
    assert code_notice(folder) == (
        f"{folder}: code of its own is ignored: "
        "config.json (configuration_phi3.Phi3Config, modeling_phi3.Phi3ForCausalLM) "
        "and tokenizer_config.json (tokenization_phi3.Phi3Tokenizer)"
    )
    (folder / "tokenizer_config.json").unlink()
    assert code_notice(folder).endswith(
        "config.json (configuration_phi3.Phi3Config, modeling_phi3.Phi3ForCausalLM)"
    )


def test_what_only_that_code_has_is_refused_by_name(folder):
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"model_type": "unheard_of"})
    name_code(folder, Phi3SmallTokenizer=TOKENIZER_MAP)
    with pytest.raises(ModelError) as caught:
        code_notice(folder)
    assert str(caught.value).splitlines()[1:] == [
        "  model_type=unheard_of is no architecture of mlx-lm",
        "  tokenizer_class=Phi3SmallTokenizer is no tokenizer of transformers",
        "Use a model whose architecture mlx-lm has, with a tokenizer that transformers has.",
    ]


def test_an_unknown_tokenizer_without_code_is_left_to_the_loader(folder):
    path = folder / "tokenizer_config.json"
    settings = read_json(path) | {"tokenizer_class": "Phi3SmallTokenizer"}
    write_json(path, {name: value for name, value in settings.items() if name != "auto_map"})
    assert "tokenizer_config.json" not in code_notice(folder)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("LlamaTokenizer", True),
        ("GPT2TokenizerFast", True),
        ("PreTrainedTokenizerFast", True),
        ("Phi3SmallTokenizer", False),
        ("PreTrainedConfig", False),
        ("__file__", False),
    ],
)
def test_tokenizers_are_told_from_other_names(name, known):
    assert is_tokenizer(name) is known


@pytest.mark.parametrize("value", [{"a": ["x", {"b": "y"}]}, [["x"], "y"], "x", 1])
def test_a_map_of_any_kind_is_ignored(folder, value):
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"auto_map": value})
    assert "auto_map" not in read_config(folder)
    assert ("config.json (x" in code_notice(folder)) is (value != 1)


def test_every_loader_is_told_to_run_no_code():
    calls = {}
    for path in [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.unparse(node) if isinstance(node, ast.Call) else ""
            if re.match(r"[\w.]*(from_pretrained|load_any_\w+)\(|[\w.]*partial\(load_any", text):
                calls[text] = bool(re.search(r"trust_remote_code'?(=|: )False", text))
    assert len(calls) >= 4
    assert [text for text, refuses in calls.items() if not refuses] == []


# At a terminal, where transformers would ask


LOAD = (
    "import sys; from pathlib import Path; from pipeline.model.network import upstream; "
    "print(upstream.load_tokenizer(Path(sys.argv[1])).decode([5]))"
)


def test_a_tokenizer_is_loaded_without_a_question(tmp_path):
    marker = tmp_path / "was run"
    folder = published(tmp_path / "model", marker, model_type=UNKNOWN_TO_TRANSFORMERS)
    code, written = at_a_terminal([sys.executable, "-c", LOAD, str(folder)], cwd=ROOT)
    assert (code, "[y/N]" in written, marker.exists()) == (0, False, False), written


def stage(run, name, *overrides):
    places = f"hydra.run.dir={run}", f"inputs={run}"
    return at_a_terminal([sys.executable, "-m", f"stages.{name}", *places, *overrides], cwd=ROOT)


def test_a_published_folder_goes_through_every_stage(tmp_path):
    marker, run = tmp_path / "was run", tmp_path / "run"
    run.mkdir()
    folder = published(tmp_path / "phi3", marker, model_type=UNKNOWN_TO_TRANSFORMERS)
    write_rows(tmp_path / "rows.jsonl")
    model = "model=local", f"model.source={folder}"
    rows = "data=jsonl", f"data.path={tmp_path / 'rows.jsonl'}"
    code, written = stage(run, "prepare", *model, *rows)
    assert code == 0, written
    code, written = stage(run, "weights", *model)
    assert (code, written.count("code of its own is ignored")) == (0, 1), written
    assert f"model_type={UNKNOWN_TO_TRANSFORMERS} is in no row of docs/models.md" in written
    train_nothing(run)
    for name, settings in {
        "export": ["export.formats=[adapter,fused]"],
        "validate": ["validate.num_samples=2", "validate.sample_tokens=4"],
    }.items():
        code, written = stage(run, name, *settings)
        assert code == 0, written
        assert "[y/N]" not in written
    assert not marker.exists()
    exported = read_json(run / "models/export/fused/config.json")
    assert "auto_map" not in exported
    assert exported["model_type"] == UNKNOWN_TO_TRANSFORMERS
    assert read_json(run / "models/base/config.json")["auto_map"] == AUTO_MAP
    settings = read_json(run / "models/base/tokenizer_config.json")
    assert settings.pop("auto_map")
    assert read_json(run / "models/export/fused/tokenizer_config.json") == settings


def train_nothing(run):
    """Write an adapter and curves, as the train stage does."""
    base = load_base(run / "models/base", "float32")
    settings = AdapterSettings("lora", 2, 4.0, 0.0, None, ("*",))
    config = apply(base.model, settings, seed=0)
    weights = named_arrays(base.model.trainable_parameters())
    weights = {name: value + 0.01 for name, value in weights.items()}
    save_adapter(run / "models/trained", weights, config)
    seal(run / "models/trained")
    losses = {"val_loss": 2.0, "best_val_loss": 2.0, "learning_rate": 1e-3}
    write_json(run / "metrics/train.json", losses)
    (run / "plots").mkdir(exist_ok=True)
    (run / "plots/train.csv").write_text("step,train_loss\n1,2.0\n")
    (run / "plots/validation.csv").write_text("step,val_loss\n1,2.0\n")

"""The comparison of a base with transformers: `make check-model`."""

import numpy as np
import pytest

from pipeline.device import mx
from pipeline.files import read_json, write_json
from pipeline.model.network.base import load_base, write_manifest
from pipeline.model.network.forward import forward
from tools import check_model


@pytest.fixture
def base(tmp_path, model_folder):
    base = tmp_path / "base"
    base.mkdir()
    write_manifest(base, model_folder, "some/source", "hash")
    return base


@pytest.fixture
def compared(base, tmp_path, monkeypatch, capsys):
    """Compare a base with logits that are off by so much; return exit code, record and text."""
    monkeypatch.setattr(check_model, "RECORD", tmp_path / "runs/check_model.json")
    monkeypatch.setattr(check_model, "require_libraries", lambda: None)

    def compare(error=0.0):
        model = load_base(base, "float32").model

        def logits(folder, tokens):
            assert folder == tmp_path / "model"
            assert tokens.shape == (2, 64)
            found = np.array(forward(model, mx.array(tokens)))
            found[1, 5, 3] += error * found.std()
            return found

        monkeypatch.setattr(check_model, "logits_of_transformers", logits)
        code = check_model.main([str(base)])
        written = capsys.readouterr()
        record = read_json(check_model.RECORD) if check_model.RECORD.exists() else None
        return code, record, written.out + written.err

    return compare


def test_a_base_that_both_compute_alike_passes(compared, base):
    code, record, text = compared(error=5e-4)
    assert code == 0
    assert record["model_type"] == "llama"
    assert record["source"] == "some/source"
    assert record["difference_in_std"] == pytest.approx(5e-4, rel=0.01)
    assert text.startswith(f"{base}: logits differ from those of transformers by at most ")
    assert text.endswith("(2 x 64 tokens; 0.001 is allowed)\n")


@pytest.mark.parametrize(("error", "recorded"), [(2e-3, True), (float("nan"), False)])
def test_another_model_is_refused_and_recorded(compared, error, recorded):
    code, record, text = compared(error)
    assert (code, record is not None) == (1, recorded)
    assert text.startswith("ModelError: some/source: logits differ from those of transformers by")
    assert "0.001 is allowed.\nWhat would be trained is another model." in text


def test_a_base_that_mlx_packed_is_refused_before_it_is_read(compared, base, capsys, monkeypatch):
    write_json(
        base / "config.json", read_json(base / "config.json") | {"quantization": {"bits": 4}}
    )
    monkeypatch.setattr(check_model, "require_libraries", lambda: None)
    assert check_model.main([str(base)]) == 1
    assert "is packed by MLX, which transformers cannot read." in capsys.readouterr().err


def test_without_torch_the_remedy_is_named(monkeypatch, capsys):
    monkeypatch.setattr(check_model.importlib.util, "find_spec", lambda name: None)
    assert check_model.main([]) == 1
    assert capsys.readouterr().err == (
        "ConfigError: torch is not installed.\nRun `make readers`, which installs it.\n"
    )


@pytest.mark.filterwarnings("ignore")  # of libraries that only read
def test_transformers_computes_the_same(base, tmp_path, readers, monkeypatch, capsys):
    readers("torch")
    monkeypatch.setattr(check_model, "RECORD", tmp_path / "runs/check_model.json")
    assert check_model.main([str(base)]) == 0
    assert read_json(check_model.RECORD)["difference_in_std"] < 1e-4


@pytest.mark.filterwarnings("ignore")
def test_weights_that_transformers_misses_are_refused(base, model_folder, readers, capsys):
    readers("torch")
    weights = mx.load(str(model_folder / "model.safetensors"))
    del weights["model.norm.weight"]
    mx.save_safetensors(str(model_folder / "model.safetensors"), weights)
    with pytest.raises(check_model.ModelError, match=r"finds no model\.norm\.weight \(1 in all\)"):
        check_model.logits_of_transformers(model_folder, check_model.random_tokens(64))

"""Base and tuned model compared."""

import dataclasses
import gc
import json
import math
import shutil
import sys
import weakref
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline.data.store import held_out_store
from pipeline.errors import ConfigError
from pipeline.evaluate import compare as module
from pipeline.evaluate import measure
from pipeline.evaluate.compare import (
    EvaluationSettings,
    evaluate,
    perplexity_metrics,
    write_losses,
)
from pipeline.evaluate.kept import KeptResults
from pipeline.evaluate.measure import parts_of
from pipeline.evaluate.picture import draw_perplexities
from pipeline.objective.likelihood import DocumentLosses
from tests.support.exports import Workplace

SETTINGS = EvaluationSettings("float32", "bucketed", None, num_samples=2, sample_tokens=3)


def losses(sums):
    return DocumentLosses(np.array([2, 0, 1]), np.array(sums), np.array([4, 2, 4]))


def test_perplexity_is_of_all_targets_and_the_difference_is_paired():
    metrics = perplexity_metrics(losses([8.0, 4.0, 8.0]), losses([4.0, 2.0, 4.0]))
    assert (metrics["n_documents"], metrics["n_tokens"]) == (3, 10)
    assert metrics["base"]["perplexity"] == pytest.approx(math.exp(2))
    assert metrics["tuned"]["loss"] == pytest.approx(1)
    assert metrics["loss_difference"] == pytest.approx(-1)
    assert metrics["resolved"]


@pytest.mark.parametrize("num_documents", [1, 2])
def test_few_held_out_documents_are_compared_and_a_single_one_has_no_interval(
    stage, make_store, tmp_path, caplog, num_documents
):
    make_store("test", count=num_documents, seed=2)
    text, files = stage.run("out", KeptResults(tmp_path / "kept", {}))
    found = json.loads(text)["held_out"]
    assert "NaN" not in text
    assert found["n_documents"] == len(files["documents.jsonl"].splitlines()) == num_documents
    assert found["base"]["perplexity"] == pytest.approx(math.exp(found["base"]["loss"]))
    ends = found["base"]["perplexity_low"], found["loss_difference_high"]
    assert [end is None for end in ends] == [num_documents == 1] * 2
    assert ("without intervals" in caplog.text) == (num_documents == 1)
    draw_perplexities(Figure().subplots(), found)


def test_the_held_out_documents_are_bounded_in_tokens_and_the_share_is_said(
    stage, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sys.modules[__name__], "SETTINGS", replace(SETTINGS, tokens=60))
    text, files = stage.run("out", KeptResults(tmp_path / "kept", {}))
    found = json.loads(text)["held_out"]
    store = held_out_store(stage.place.prepared)
    assert store.lengths[: found["n_documents"]].sum() <= 60
    assert store.lengths[: found["n_documents"] + 1].sum() > 60
    assert found["document_share"] == found["n_documents"] / 10 < 1
    assert len(files["documents.jsonl"].splitlines()) == found["n_documents"]
    assert f"validate: {found['n_documents']} of 10 held-out documents" in capsys.readouterr().err


def test_rows_of_losses_are_in_the_order_of_documents(tmp_path):
    write_losses(losses([3.0, 1.0, 2.0]), losses([6.0, 4.0, 5.0]), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "documents.jsonl").read_text().splitlines()]
    assert [row["document"] for row in rows] == [0, 1, 2]
    assert [row["base_loss_sum"] for row in rows] == [1.0, 2.0, 3.0]


# One model at a time, in parts that are kept


class Stage:
    """A validation of a small model, whose parts are small too."""

    def __init__(self, folder, config, samples, monkeypatch):
        self.place, self.folder = Workplace(folder, config, "float32", "lora", {}), folder
        shutil.copytree(samples / "models/stories260K", self.place.base, dirs_exist_ok=True)
        (self.place.base / "config.json").write_text(json.dumps(self.place.config))
        (self.place.base / "model.safetensors").unlink(missing_ok=True)
        rows = [
            {
                "id": str(row),
                "cluster": str(row // 2),
                "kind": "contest",
                "primary": row % 2,
                "counted": row % 2,
                "prompt_ids": [1, 5, 9 + row],
                "option_ids": [[33, 2], [7]],
            }
            for row in range(7)
        ]
        (folder / "conflicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        monkeypatch.setattr(measure, "evaluation_batch_tokens", lambda vocab_size: 48)
        self.loaded, self.load = [], module.load_model
        monkeypatch.setattr(module, "load_model", self.counted)

    def counted(self, base, dtype, trained):
        gc.collect()
        assert [model() for _, model in self.loaded] == [None] * len(self.loaded)
        model = self.load(base, dtype, trained)
        self.loaded.append(("base" if trained is None else "tuned", weakref.ref(model)))
        return model

    def run(self, name, kept):
        """Validate, and give all that comes of it."""
        out = self.folder / name
        out.mkdir(exist_ok=True)
        place, self.loaded = self.place, []
        metrics = evaluate(place.base, place.trained, place.prepared, out, SETTINGS, kept)
        return json.dumps(metrics), {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture
def stage(tmp_path, tiny_config, make_store, samples, monkeypatch):
    make_store("validation", count=12, seed=1)
    make_store("test", count=10, seed=2)
    return Stage(tmp_path, tiny_config, samples, monkeypatch)


@pytest.mark.parametrize("done", [0, 3, 10, 11, 17, 22])
def test_a_validation_goes_on_where_it_was_killed(stage, tmp_path, done):
    whole = KeptResults(tmp_path / "whole", {})
    expected = stage.run("expected", whole)
    names = list(whole.found)[1:]
    assert [name.split("/")[0] for name in names] == ["base"] * 11 + ["tuned"] * 11
    lines = (tmp_path / "whole").read_text().splitlines(keepends=True)
    (tmp_path / "kept").write_text("".join(lines[: 1 + done]))
    kept = KeptResults(tmp_path / "kept", {})
    assert list(kept.found)[1:] == names[:done]
    assert stage.run("out", kept) == expected
    assert list(kept.found)[1:] == names
    assert [name for name, _ in stage.loaded] == ["base"] * (done < 11) + ["tuned"] * (done < 22)


def test_the_parts_cover_everything_once(stage):
    place = stage.place
    work = module.work_of(place.base, place.prepared, SETTINGS)
    sizes = {}
    for part in parts_of(work):
        sizes[part.kind] = sizes.get(part.kind, 0) + part.size
    assert sizes == {"documents": 10, "items": 7, "samples": 2}
    assert work.size == sum(sizes.values())
    assert work.answers.max_tokens == SETTINGS.sample_tokens


def test_prompts_of_the_user_follow_those_of_the_data(stage, caplog):
    place = stage.place
    given = dataclasses.replace(SETTINGS, num_samples=99, sample_prompts=["Once upon", "A dog"])
    work = module.work_of(place.base, place.prepared, given)
    found = [work.answers.text_of(prompt.ids) for prompt in work.prompts]
    assert found[-2:] == ["Once upon", "A dog"]
    assert [bool(prompt.reference) for prompt in work.prompts] == [True] * 10 + [False] * 2
    assert "validate.num_samples=99: only 10 different prompts are held out" in caplog.text
    wrong = dataclasses.replace(SETTINGS, sample_prompts=["Once", ""])
    with pytest.raises(ConfigError, match=r"validate\.sample_prompts\[1\]: it is empty"):
        module.work_of(place.base, place.prepared, wrong)

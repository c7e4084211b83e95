"""A stage reads what earlier stages have written, in the runs it is given and in the repository."""

import pytest

from pipeline.config import stage_paths as module
from pipeline.config.earlier_runs import EarlierRuns
from pipeline.config.outputs import seal
from pipeline.config.stage_paths import Paths
from pipeline.errors import PipelineError


def test_an_output_is_looked_for_in_the_earlier_run_then_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROOT", tmp_path / "root")
    for folder in ("earlier/data/prepared", "root/data/prepared", "root/models/base"):
        (tmp_path / folder).mkdir(parents=True)
        seal(tmp_path / folder)
    paths = Paths(tmp_path / "out", EarlierRuns((tmp_path / "earlier",)))
    assert paths.read("data/prepared") == tmp_path / "earlier/data/prepared"
    assert paths.read("models/base") == tmp_path / "root/models/base"
    alone = EarlierRuns((tmp_path / "earlier",), with_repository=False)
    with pytest.raises(PipelineError, match=rf"looked in {tmp_path}/earlier\)"):
        Paths(tmp_path / "out", alone).read("models/base")
    assert Paths(tmp_path / "out").read("data/prepared") == tmp_path / "root/data/prepared"


@pytest.mark.parametrize(
    ("name", "maker"),
    [
        ("data/prepared", "prepare"),
        ("data/prepared/tokenizer", "prepare"),
        ("models/base", "weights"),
        ("models/trained/best", "train"),
        ("models/export/fused", "export"),
        ("metrics/validate.json", "validate"),
        ("plots/train.csv", "train"),
    ],
)
def test_a_missing_output_names_the_stage_to_run(tmp_path, monkeypatch, name, maker):
    monkeypatch.setattr(module, "ROOT", tmp_path / "root")
    match = (
        rf"{name} is missing \(looked in {tmp_path}/earlier, {tmp_path}/root\)\.\n"
        rf"Run `dvc repro {maker}` first, or name the run that made it: inputs=RUN_FOLDER"
    )
    with pytest.raises(PipelineError, match=match):
        Paths(tmp_path / "out", EarlierRuns((tmp_path / "earlier",))).read(name)


def test_the_hash_of_data_follows_the_earlier_run(tmp_path):
    for text in ("1", "2"):
        for name in ("data/prepared", "models/base"):
            (tmp_path / text / name).mkdir(parents=True)
            (tmp_path / text / name / "a").write_text(text if name == "data/prepared" else "")
            seal(tmp_path / text / name)
    before, after = (
        module.data_hashes("train", Paths(tmp_path, EarlierRuns((tmp_path / text,))))
        for text in ("1", "2")
    )
    assert before.keys() == {"data/prepared", "models/base"}
    assert [name for name in before if before[name] != after[name]] == ["data/prepared"]

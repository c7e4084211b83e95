"""`--plan`: which rows and which base are read, and when there are none."""

import pytest

from pipeline.config.earlier_runs import EarlierRuns
from pipeline.config.graph import sections_of
from pipeline.config.outputs import seal
from pipeline.config.records import FOLDER, Record, files_of, parameters_of, record_of
from pipeline.config.stage_paths import Paths, data_hashes
from pipeline.errors import ConfigError
from pipeline.train.supervise import planning
from pipeline.train.supervise.planning import EARLIER, plan_of, written
from stages.params import composed

OTHERS = [["seed=3"], ["data.max_seq_len=64"], ["model.scratch.hidden_size=64"]]
SAME = [[], ["lora.rank=3", "train.batch_size=7"]]
OUTPUTS = {"prepare": "data/prepared", "weights": "models/base"}


def make(folder, *names):
    """Write what some stages write, as far as it is looked at."""
    for name in names:
        (folder / OUTPUTS[name]).mkdir(parents=True)
        (folder / OUTPUTS[name] / "file").write_text(name)
        seal(folder / OUTPUTS[name])
    return folder


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository where DVC has made rows and a base by the defaults."""
    config = composed([])
    recorded = {
        name: (parameters_of(config, sections_of(name)), files_of(name, config)) for name in EARLIER
    }
    monkeypatch.setattr(planning, "ROOT", tmp_path)
    monkeypatch.setattr(planning, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(planning, "recorded_by_dvc", recorded.get)
    return make(tmp_path, *EARLIER)


@pytest.mark.parametrize("overrides", [*SAME, *OTHERS], ids=" ".join)
def test_what_dvc_has_made_is_read_where_it_is_of_the_same_parameters(repository, overrides):
    paths = Paths(repository)
    assert written(composed(overrides), paths) == (paths if overrides in SAME else None)


@pytest.mark.parametrize("name", EARLIER)
def test_both_must_be_there(repository, name):
    (repository / OUTPUTS[name]).rename(repository / "elsewhere")
    assert written(composed([]), Paths(repository)) is None


def test_without_a_path_of_rows_there_are_none(repository):
    config = composed([])
    config.data.path = "???"
    assert written(config, Paths(repository)) is None


def test_a_run_that_is_named_is_read_where_its_record_agrees(repository):
    run = make(repository / "runs/one", *EARLIER)
    paths = Paths(repository, EarlierRuns((run,), with_repository=False))
    for overrides in ([], ["seed=3"]):
        assert written(composed(overrides), paths) == paths
    Record("prepare", parameters_of(composed([]), sections_of("prepare")), {}, {}, {}).write(run)
    assert written(composed([]), paths) == paths
    assert written(composed(["seed=3"]), paths) is None
    (run / OUTPUTS["weights"]).rename(run / "elsewhere")
    assert written(composed([]), paths) is None


def test_what_was_made_by_hand_before_is_found_again(repository):
    config = composed(["seed=3"])
    assert written(config, Paths(repository)) is None
    earlier = EarlierRuns()
    for name in EARLIER:
        record = record_of(name, config, data_hashes(name, Paths(repository, earlier)))
        run = make(repository / "runs" / name / record.key, name)
        record.write(run)
        assert (run / FOLDER).is_dir()
        earlier = EarlierRuns((run, *earlier.folders), with_repository=False)
        (run / ".hydra").mkdir()
        led = earlier.folders[1] if name == "weights" else "null"
        (run / ".hydra/config.yaml").write_text(f"inputs: {led}\n")
    found = written(config, Paths(repository))
    assert found is not None
    assert found.read("models/base").is_relative_to(repository / "runs/weights")
    assert found.read("data/prepared").is_relative_to(repository / "runs/prepare")
    assert written(composed(["seed=4"]), Paths(repository)) is None


def test_a_model_that_is_not_named_is_asked_for(tmp_path):
    config = composed(["model=local", "model.source=x"])
    config.model.source = "???"
    with pytest.raises(ConfigError, match=r"model\.source has no value; give one: model\.source="):
        plan_of(config, Paths(tmp_path))

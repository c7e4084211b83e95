"""`inputs=` leads to runs that exist, and to the repository only where a run says so."""

import pytest
from omegaconf import OmegaConf

from pipeline.config.earlier_runs import RECORD, EarlierRuns, earlier_runs
from pipeline.errors import ConfigError

OUTPUTS = ("models/base", "metrics/train.json")


@pytest.fixture
def run(tmp_path):
    """Make the folder of a run; return its path."""

    def make(name, record="inputs: null\n", output="models/base"):
        folder = tmp_path / name
        (folder / ".hydra").mkdir(parents=True)
        if record is not None:
            (folder / RECORD).write_text(record)
        if output:
            (folder / output).mkdir(parents=True)
        return folder

    return make


def test_without_inputs_only_the_repository_is_looked_at(tmp_path):
    fingerprints = OmegaConf.create({"data": {}})
    for named in (None, fingerprints):
        assert earlier_runs(named, tmp_path, OUTPUTS) == EarlierRuns()


def test_a_run_leads_to_the_one_that_it_was_given(run, tmp_path):
    first = run("first")
    second = run("second", f"inputs: {first}\n")
    assert earlier_runs(str(second), tmp_path, OUTPUTS) == EarlierRuns((second, first))


def test_a_run_that_names_itself_ends_the_search(run, tmp_path):
    own = run("own", f"inputs: {tmp_path}/own\n")
    assert earlier_runs(str(own), tmp_path, OUTPUTS) == EarlierRuns((own,))


def test_the_own_folder_may_still_be_empty(run):
    own = run("own", output=None)
    assert earlier_runs(str(own), own, OUTPUTS) == EarlierRuns((own,))


def test_where_no_run_says_so_nothing_is_taken_from_the_repository(run, tmp_path):
    copied = run("copied", record=None)
    assert earlier_runs(str(copied), tmp_path, OUTPUTS) == EarlierRuns((copied,), False)


@pytest.mark.parametrize("output", [None, "models/other"])
def test_a_folder_without_an_output_of_a_stage_is_refused(run, tmp_path, output):
    empty = run("empty", output=output)
    with pytest.raises(ConfigError, match=r"empty holds nothing that a stage writes\.\nGive"):
        earlier_runs(str(empty), tmp_path, OUTPUTS)


def test_a_folder_that_does_not_exist_is_refused_also_further_back(run, tmp_path):
    run("last", f"inputs: {tmp_path}/gone\n")
    message = rf"inputs={tmp_path}/gone: there is no such run folder \(looked at {tmp_path}/gone\)"
    with pytest.raises(ConfigError, match=message):
        earlier_runs(str(tmp_path / "last"), tmp_path, OUTPUTS)


@pytest.mark.parametrize("record", ["", "[]", "7", "seed: 7\n", "inputs: [\n", "\0"])
def test_a_damaged_record_is_refused(run, tmp_path, record):
    damaged = run("damaged", record)
    with pytest.raises(ConfigError, match=r"config\.yaml is empty or damaged, .*\nRun its stage"):
        earlier_runs(str(damaged), tmp_path, OUTPUTS)


def test_a_record_that_is_no_text_or_no_file_is_refused(run, tmp_path):
    damaged = run("damaged")
    (damaged / RECORD).write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is empty or damaged"):
        earlier_runs(str(damaged), tmp_path, OUTPUTS)
    (damaged / RECORD).unlink()
    (damaged / RECORD).mkdir()
    with pytest.raises(ConfigError, match="is empty or damaged"):
        earlier_runs(str(damaged), tmp_path, OUTPUTS)

"""The table of a sweep, also of one in which a job has failed."""

import csv
import json

import pytest
from omegaconf import OmegaConf

from pipeline.config import sweep_table
from pipeline.config.sweep_table import SweepTable, write_table
from pipeline.errors import PipelineError


@pytest.fixture
def sweep(tmp_path):
    """Two jobs that ended, one that failed, and a folder that is no job."""
    for job, overrides, metrics in (
        ("10", ["lora.rank=8", "lora.targets=[a,b=c]"], {"val_loss": 1.5, "nested": {"n": 3}}),
        ("9", ["lora.rank=4"], {"val_loss": 2.0, "skipped": None}),
        ("11", ["lora.rank=0", "+seed=1"], None),
    ):
        (tmp_path / job / ".hydra").mkdir(parents=True)
        (tmp_path / job / ".hydra/overrides.yaml").write_text(json.dumps(overrides))
        if metrics is not None:
            (tmp_path / job / "metrics").mkdir()
            (tmp_path / job / "metrics/train.json").write_text(json.dumps(metrics))
    (tmp_path / "notes").mkdir()
    return tmp_path


TABLE = """\
| job | lora.rank | val_loss | skipped | lora.targets | nested.n | +seed | failed |
| --- | --- | --- | --- | --- | --- | --- | --- |
| 9 | 4 | 2.0 | None |  |  |  |  |
| 10 | 8 | 1.5 |  | [a,b=c] | 3 |  |  |
| 11 | 0 |  |  |  |  | 1 | yes |"""


def test_jobs_stand_in_their_order_and_a_failed_one_says_so(sweep):
    assert write_table(sweep) == TABLE
    assert (sweep / "table.md").read_text() == TABLE + "\n"


def test_the_same_table_as_csv(sweep):
    write_table(sweep)
    with (sweep / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["job"] for row in rows] == ["9", "10", "11"]
    assert [row["failed"] for row in rows] == ["", "", "yes"]
    assert rows[1]["lora.targets"] == "[a,b=c]"


def test_hydra_calls_it_when_a_sweep_ends(sweep, capsys):
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(sweep)}}})
    SweepTable().on_multirun_end(config)
    assert capsys.readouterr().out == f"{TABLE}\n{sweep}/table.md\n"


def test_by_hand_it_prints_the_table(sweep, capsys):
    assert sweep_table.main([str(sweep)]) == 0
    assert capsys.readouterr().out == TABLE + "\n"


def test_a_folder_without_jobs_is_refused(tmp_path, capsys):
    with pytest.raises(PipelineError, match=r"no job of a sweep is here\.\nGive the folder of a"):
        write_table(tmp_path)
    assert sweep_table.main([str(tmp_path / "nowhere")]) == 1
    assert "nowhere: no job of a sweep is here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_damaged_metrics_are_named(sweep):
    (sweep / "9/metrics/train.json").write_text('{"val_loss": ')
    message = (
        r"9/metrics/train\.json: is no JSON .*\nDelete the folder of this job, or run the sweep"
    )
    with pytest.raises(PipelineError, match=message):
        write_table(sweep)

"""The table of a sweep, also of one in which a job has failed."""

import csv
import json

import pytest
from omegaconf import OmegaConf

from pipeline.config import sweep_table
from pipeline.config.sweep_table import MOST_FIGURES, SweepTable, write_table
from pipeline.errors import PipelineError


@pytest.fixture
def sweep(tmp_path):
    """Make a sweep of some jobs: their overrides and the content of their files of metrics."""

    def make(jobs):
        for job, (overrides, metrics) in jobs.items():
            (tmp_path / job / ".hydra").mkdir(parents=True)
            (tmp_path / job / ".hydra/overrides.yaml").write_text(json.dumps(overrides))
            for name, values in metrics.items():
                (tmp_path / job / "metrics").mkdir(exist_ok=True)
                (tmp_path / job / f"metrics/{name}.json").write_text(json.dumps(values))
        (tmp_path / "notes").mkdir()
        return tmp_path

    return make


def trained(loss, **figures):
    """Give the files of metrics of a training."""
    machine = {"targets_per_second": 17467.241882265662, "reloads": 2}
    summary = {"validation_loss": loss, "learning_rate": 2e-3, **figures}
    return {"summary": summary, "machine": machine, "train": {"val_loss": loss, "num_steps": 3}}


def cells(line):
    """Split a line of a table."""
    return [cell.strip() for cell in line.strip("|").split("|")]


JOBS = {
    "10": (["seed=8", "lora.rank=2", "train.num_steps=3"], trained(0.6518944487832979)),
    "9": (["seed=4", "lora.rank=2", "train.num_steps=3"], trained(0.75)),
    "11": (["seed=0", "lora.rank=2", "train.num_steps=3", "+debug=leak"], {}),
}
TABLE = """\
| job         | seed | +debug | validation_loss | learning_rate | targets_per_second | reloads |
| ----------- | ---- | ------ | --------------- | ------------- | ------------------ | ------- |
| 10 (best)   | 8    |        | 0.6519          | 0.002         | 17,470             | 2       |
| 9           | 4    |        | 0.75            | 0.002         | 17,470             | 2       |
| 11 (failed) | 0    | leak   |                 |               |                    |         |

Ordered by validation_loss, the least first. All figures: table.csv"""


def test_few_figures_with_four_digits_the_best_job_first_and_marked(sweep):
    folder = sweep(JOBS)
    assert write_table(folder) == TABLE
    assert (folder / "table.md").read_text() == TABLE + "\n"


def test_the_csv_has_every_key_and_every_figure_in_the_order_of_the_jobs(sweep):
    folder = sweep(JOBS)
    write_table(folder)
    with (folder / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["job"] for row in rows] == ["9", "10", "11"]
    assert [row["failed"] for row in rows] == ["", "", "yes"]
    assert [row["val_loss"] for row in rows] == ["0.75", "0.6518944487832979", ""]
    assert {row["train.num_steps"] for row in rows} == {"3"}


def test_no_more_than_seven_figures_and_none_that_is_a_key(sweep):
    more = {f"figure_{number}": 0.5 for number in range(MOST_FIGURES)}
    jobs = {"0": ["optim.learning_rate=1"], "1": ["optim.learning_rate=2"]}
    text = write_table(sweep({job: (given, trained(0.5, **more)) for job, given in jobs.items()}))
    names = cells(text.splitlines()[0])
    assert len(names) == 2 + MOST_FIGURES
    assert names.count("learning_rate") == 0


def test_equal_results_are_all_the_best(sweep):
    text = write_table(sweep({"0": (["seed=1"], trained(0.5)), "1": (["seed=2"], trained(0.5))}))
    assert text.count("(best)") == 2


def test_where_a_suite_was_measured_the_greatest_share_is_the_best(sweep):
    jobs = {
        "0": (["seed=1"], trained(0.5, conflicts_primary_share=0.5)),
        "1": (["seed=2"], trained(0.6, conflicts_primary_share=1.0)),
    }
    lines = write_table(sweep(jobs)).splitlines()
    assert cells(lines[2])[:5] == ["1 (best)", "2", "0.6", "0.002", "1"]
    assert "Ordered by conflicts_primary_share, the greatest first." in lines[-1]


def test_a_stage_without_such_figures_shows_those_that_differ(sweep):
    metrics = [{"prepare": {"rows": 24000, "bad_rows": n, "kind": "a"}} for n in (0, 3)]
    jobs = {str(n): ([f"seed={n}"], found) for n, found in enumerate(metrics)}
    table = [cells(line) for line in write_table(sweep(jobs)).splitlines()]
    assert table[0] == ["job", "seed", "bad_rows"]
    assert table[2:] == [["0", "0", "0"], ["1", "1", "3"]]


def test_of_a_single_job_all_keys_are_shown(sweep):
    text = write_table(sweep({"0": (["lora.rank=4", "seed=1"], trained(1.0))}))
    assert cells(text.splitlines()[2])[:3] == ["0 (best)", "4", "1"]


def test_hydra_calls_it_when_a_sweep_ends(sweep, capsys):
    folder = sweep(JOBS)
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}})
    SweepTable().on_multirun_end(config)
    assert capsys.readouterr().out == f"{TABLE}\n{folder}/table.md\n"


def test_by_hand_it_prints_the_table(sweep, capsys):
    assert sweep_table.main([str(sweep(JOBS))]) == 0
    assert capsys.readouterr().out == TABLE + "\n"


def test_a_folder_without_jobs_is_refused(tmp_path, capsys):
    with pytest.raises(PipelineError, match=r"no job of a sweep is here\.\nGive the folder of a"):
        write_table(tmp_path)
    assert sweep_table.main([str(tmp_path / "nowhere")]) == 1
    assert "nowhere: no job of a sweep is here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_damaged_metrics_are_named(sweep):
    folder = sweep(JOBS)
    (folder / "9/metrics/train.json").write_text('{"val_loss": ')
    message = (
        r"9/metrics/train\.json: is no JSON .*\nDelete the folder of this job, or run the sweep"
    )
    with pytest.raises(PipelineError, match=message):
        write_table(folder)

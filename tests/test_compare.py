"""Two runs side by side: their figures, and what differs."""

import json

import pytest
import yaml
from dvc.exceptions import DvcException
from dvc_data.index import DataIndexDirError

from pipeline.errors import PipelineError
from tools import compare
from tools.compare import MOST_COLUMNS, read_run

LONG = "a long answer of many words, " * 30


@pytest.fixture
def runs(tmp_path, monkeypatch, capsys):
    """Write two runs by hand, and return what is printed of them."""
    monkeypatch.setenv("COLUMNS", "400")

    def write(name, loss, rank, answers):
        folder = tmp_path / name
        for part in ("metrics", ".hydra", "models/validation"):
            (folder / part).mkdir(parents=True)
        figures = {"validation_loss": loss, "learning_rate": 0.002}
        (folder / "metrics/summary.json").write_text(json.dumps(figures))
        (folder / "metrics/machine.json").write_text('{"reloads": 1}')
        values = {"lora": {"rank": rank, "targets": ["q_proj"]}, "inputs": {"data": name}}
        (folder / ".hydra/config.yaml").write_text(yaml.safe_dump(values))
        rows = [{"prompt": prompt, "base": "", "tuned": text} for prompt, text in answers.items()]
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        (folder / "models/validation/samples.jsonl").write_text(text)
        return str(folder)

    def printed(*names):
        assert compare.main(list(names)) == 0
        return capsys.readouterr().out

    printed.write = write
    return printed


def rows_of(text):
    """Split the lines of tables into cells."""
    return [line.split() for line in text.splitlines() if line.strip()]


def test_figures_parameters_and_answers(runs):
    first = runs.write("first", 0.75, 8, {"ask": "yes", "same": "1", "only here": "2"})
    second = runs.write("second", 0.5, 4, {"ask": "no", "same": "1"})
    text = runs(first, second)
    rows = rows_of(text)
    assert ["validation_loss", "0.75", "0.5", "-0.25"] in rows
    assert ["learning_rate", "0.002", "0.002", "0"] in rows
    assert ["reloads", "1", "1", "0"] in rows
    assert ["lora.rank", "8", "4"] in rows
    assert ["ask", "yes", "no"] in rows
    assert not any(row[0] in ("lora.targets", "inputs.data", "same") for row in rows)
    assert "1 of 2 answers to the same prompts differ." in text
    assert ["validation_loss", "0.5", "0.75", "+0.25"] in rows_of(runs(second, first))


def test_runs_that_are_equal_say_so(runs):
    first = runs.write("first", 0.75, 8, {})
    text = runs(first, first)
    assert "All parameters are equal." in text
    assert "0 of 0 answers" in text


def test_it_fits_and_shows_no_control_characters(runs):
    first = runs.write("first", 0.75, 8, {"ask " * 90: f"\x1b[2J[red]{LONG}"})
    second = runs.write("second", 0.75, [1] * 300, {"ask " * 90: "short"})
    text = runs(first, second)
    assert max(map(len, text.splitlines())) <= MOST_COLUMNS
    assert "\\x1b[2J[red]a long" in text
    assert "\x1b" not in text
    assert "…" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", r"empty: has neither metrics/summary\.json .*\nName a run whose training"),
        ("damaged", r"damaged: .*summary\.json cannot be read .*\nMake the run again"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged/metrics").mkdir(parents=True)
    (tmp_path / "damaged/metrics/summary.json").write_text('{"valid')
    with pytest.raises(PipelineError, match=message):
        read_run(name)


def test_two_names_are_needed(capsys):
    assert compare.main(["one"]) == 2
    assert "make compare A=RUN B=RUN" in capsys.readouterr().err


@pytest.mark.parametrize("error", [FileNotFoundError, DvcException, DataIndexDirError])
def test_what_the_cache_does_not_hold_is_left_out_and_said(runs, error):
    class Files:
        def cat_file(self, path):
            raise error(path)

    assert compare.text_in(Files(), compare.SAMPLES) is None
    first, second = runs.write("first", 0.75, 8, {}), runs.write("second", 0.5, 8, {"ask": "yes"})
    text = runs(first, second)
    assert "first has no answers here: `dvc fetch` may bring them." in text
    assert "second has no answers" not in text

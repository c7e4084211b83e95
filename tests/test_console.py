"""What a person sees, and what the log of a run keeps of it."""

import re

import pytest

from pipeline import console
from pipeline.console import RowCounter, StageProgress, TrainingProgress, in_hours, logging_to


@pytest.fixture
def clock(monkeypatch):
    """Set the time by hand."""

    class Time:
        now = 100.0

        @staticmethod
        def monotonic():
            return Time.now

    monkeypatch.setattr(console, "time", Time)
    return Time


def test_a_note_is_printed_to_the_letter(capsys):
    text = "only export.formats=[fused] :dog: [/nothing]"
    TrainingProgress("train", 3).note(text)
    assert capsys.readouterr().err == f"{text}\n"


def test_control_characters_are_escaped(capsys):
    TrainingProgress("train", 3).note("a tensor named \x1b[2J\nand another line")
    console.print_line("a row with \x1b[2J")
    expected = "a tensor named \\x1b[2J\nand another line\na row with \\x1b[2J\n"
    assert capsys.readouterr().err == expected


def test_without_a_terminal_a_line_is_printed_every_five_seconds_and_at_the_end(capsys, clock):
    progress = StageProgress("validate", 100)
    for done, now in ((3, 100.0), (4, 104.0), (6, 106.0), (31, 110.0), (40, 111.5), (100, 112.0)):
        clock.now = now
        progress.show(done, "base")
    assert capsys.readouterr().err.splitlines() == [
        "validate 3/100  base  0:00 passed",
        "validate 6/100  base  0:06 passed, 1:34 left",
        "validate 40/100  base  0:12 passed, 0:17 left",
        "validate 100/100  base  0:12 passed",
    ]


def test_what_was_done_before_does_not_count_for_the_time_left(capsys, clock):
    progress = TrainingProgress("train", 40)
    progress.start_at(20)
    clock.now += 10
    progress.step(22, 1.0, 10.0, 10**9)
    expected = "train 22/40  loss 1.000  10 tokens/s  1.00 GB  0:10 passed, 1:30 left\n"
    assert capsys.readouterr().err == expected


def test_parts_are_counted_one_by_one(capsys, clock):
    progress = StageProgress("export", 2)
    for name in ("adapter written", "adapter read back"):
        clock.now += 6.0
        progress.advance(name)
    assert capsys.readouterr().err.splitlines() == [
        "export 1/2  adapter written  0:06 passed, 0:06 left",
        "export 2/2  adapter read back  0:12 passed",
    ]


def test_rows_are_counted_where_reading_them_takes_long(capsys, clock):
    counter = RowCounter("prepare")
    counter.show("reading", 10)
    clock.now += 6
    counter.show("reading", 2000)
    counter.show("reading", 2001)
    assert capsys.readouterr().err == "prepare: reading, 2,000 rows\n"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (61.4, "1:01"), (7325.0, "2:02:05")])
def test_times_are_written_in_hours(seconds, text):
    assert in_hours(seconds) == text


def test_what_is_printed_is_logged_with_its_time(tmp_path, capsys, clock):
    file = tmp_path / "train.log"
    with logging_to(file):
        progress = StageProgress("train", 3)
        progress.note("first\nsecond")
        progress.show(1, "loss 2")
        progress.show(2, "loss 1")
        console.print_line("done")
    console.print_line("not logged")
    lines = file.read_text().splitlines()
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d  "
    assert all(re.match(time, line) for line in lines)
    texts = [re.sub(time, "", line) for line in lines]
    assert texts == ["first", "second", "train 1/3  loss 2  0:00 passed", "done"]
    assert capsys.readouterr().err.splitlines() == [*texts, "not logged"]

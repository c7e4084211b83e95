"""The journal adds up over processes, and survives being cut short."""

from pathlib import Path

import pytest

from pipeline.train.supervise.journal import Journal


def test_it_adds_up(tmp_path):
    journal = Journal(tmp_path)
    journal.add("start")
    journal.add("reload", step=4, seconds=0.25)
    journal.add("death", cause="x")
    journal.add("recovery", step=4)
    Journal(tmp_path).add("reload", step=8, seconds=0.5)
    journal.add("inexact", why="another BLAS")
    tally = Journal(tmp_path).tally()
    assert (tally.reloads, tally.recoveries, tally.reload_seconds) == (2, 1, 0.75)
    assert tally.inexact == ("another BLAS",)


def test_a_line_that_was_cut_short_does_not_count(tmp_path):
    journal = Journal(tmp_path)
    journal.add("start")
    with journal.path.open("a") as file:
        file.write('{"what": "relo')
    journal.add("recovery", step=2)
    assert [entry["what"] for entry in journal.entries()] == ["start", "recovery"]


GOOD = b'{"what": "reload", "seconds": 0.5}'
DAMAGED = {
    "bad UTF-8": b'{"what": "inexact", "why": "\xff"}',
    "half a line": b'what": "recovery"}',
    "no what": b'{"unix_seconds": 1.0}',
    "what is no text": b'{"what": ["reload"]}',
    "no seconds": b'{"what": "reload"}',
    "seconds are no number": b'{"what": "reload", "seconds": "NaN"}',
    "no reason": b'{"what": "inexact"}',
    "deep": b'{"what": ' + b"[" * 100_000 + b"}",
    "no object": b'[{"what": "start"}',
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_journal_is_set_aside_with_a_warning(tmp_path, kind, caplog):
    journal, content = Journal(tmp_path), b"\n".join([GOOD, DAMAGED[kind], b"", GOOD])
    journal.path.write_bytes(content)
    assert journal.tally().reloads == 2
    assert f"{journal.path}: is damaged (1 of 3 lines are no entries); set aside as" in caplog.text
    [aside] = tmp_path.glob("*.damaged")
    assert aside.read_bytes() == content
    caplog.clear()
    journal.add("reload", seconds=1.0)
    assert (journal.tally().reload_seconds, caplog.text) == (2.0, "")


def test_a_folder_in_place_of_the_journal_is_set_aside(tmp_path, caplog):
    journal = Journal(tmp_path)
    journal.path.mkdir()
    (journal.path / "kept").touch()
    assert journal.entries() == []
    assert "is damaged (Is a directory)" in caplog.text
    journal.add("start")
    assert [entry["what"] for entry in journal.entries()] == ["start"]
    assert list(tmp_path.glob("*.damaged/kept"))


def test_a_journal_that_cannot_be_set_aside_ends_nothing(tmp_path, monkeypatch, caplog):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    Journal(tmp_path).add("start")
    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert Journal(tmp_path).tally().reloads == 0
    assert "could not be set aside" in caplog.text


def test_a_disk_that_is_full_is_said_and_ends_nothing(tmp_path, monkeypatch, caplog):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    Journal(tmp_path).add("start")
    assert "start could not be written down" in caplog.text

"""The journal adds up over processes, and survives being cut short."""

from pathlib import Path

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


def test_a_disk_that_is_full_is_said_and_ends_nothing(tmp_path, monkeypatch, caplog):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    Journal(tmp_path).add("start")
    assert "start could not be written down" in caplog.text

"""Several files in several processes: the same bytes, counts and errors as in one."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import psutil
import pytest

from pipeline.data.preparation import processes
from pipeline.data.preparation.prepare import prepare
from pipeline.data.preparation.processes import num_processes
from pipeline.errors import DataError
from pipeline.files import ROOT
from tests.support.prepared import SETTINGS, contents, sentences, texts, write_rows
from tests.support.provenance import tables

TALK = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@pytest.fixture
def rows(tmp_path):
    """Four files, one of them empty; a blank line, duplicates, weights, and two bad rows."""
    lines = texts(*sentences(300))
    for number, row in enumerate(lines):
        if number % 50 == 7:
            row["weight"] = 0.5
    folder = tmp_path / "rows"
    for number in range(3):
        write_rows(folder / f"{number}.jsonl", lines[number * 100 : number * 100 + 100])
    (folder / "empty.jsonl").touch()
    with (folder / "1.jsonl").open("a") as file:
        file.write('\n{"no": 1}\n' + json.dumps(lines[0]) + "\n")
    with (folder / "2.jsonl").open("a") as file:
        file.write(json.dumps(TALK) + '\n{"text": ""}\n')
    return folder


@pytest.fixture
def run(tmp_path, model, monkeypatch):
    """Prepare rows in so many processes; gives the folder and the metrics."""

    def prepare_in(count, path, **changes):
        monkeypatch.setattr(processes, "allowed_cores", lambda: count)
        monkeypatch.setattr(processes, "MIN_PART_BYTES", 1)
        folder = tmp_path / f"prepared{count}"
        folder.mkdir()
        changes = {"tokenizer_source": model, "path": path, **changes}
        return folder, prepare(dataclasses.replace(SETTINGS, **changes), folder)

    return prepare_in


def test_the_number_of_processes(monkeypatch):
    monkeypatch.setattr(processes, "allowed_cores", lambda: 4)
    size = processes.MIN_PART_BYTES
    assert [num_processes(size * times) for times in (0, 1, 2, 3, 40)] == [1, 1, 2, 3, 4]


def test_the_same_bytes_and_counts_as_in_one_process(run, rows):
    changes = {"max_bad_rows": 3, "provenance": tables()}
    one, found = run(1, rows, **changes)
    three, again = run(3, rows, **changes)
    assert contents(one) == contents(three)
    assert "train/weights.bin" in contents(one)
    assert found == again
    assert (found[0]["bad_rows"], found[0]["duplicate_documents"]) == (3, 1)


@pytest.mark.parametrize("count", [1, 3])
def test_bad_rows_are_named_by_file_and_line(run, rows, count):
    with pytest.raises(DataError) as error:
        run(count, rows, max_bad_rows=2)
    listed = [line.split(": ")[0] for line in str(error.value).splitlines()[1:-1]]
    assert listed == [
        f"  {rows}/1.jsonl, line 102",
        f"  {rows}/2.jsonl, line 101",
        f"  {rows}/2.jsonl, line 102",
    ]
    assert multiprocessing.active_children() == [], "no process is left"


@pytest.mark.parametrize("count", [1, 3])
def test_documents_that_are_too_long_are_listed_from_all_parts(run, tmp_path, count):
    folder, long = tmp_path / "many", texts("the cat " * 100)
    write_rows(folder / "a.jsonl", texts(*sentences(3000)) + long)
    write_rows(folder / "b.jsonl", long)
    (folder / "c.jsonl").write_text('{"no": 1}\n' * 30 + " " * 99_000)
    with pytest.raises(DataError) as error:
        run(count, folder, long_documents="refuse", max_bad_rows=99)
    headline, *listed, remedy = str(error.value).splitlines()
    assert headline == "Documents longer than data.max_seq_len=64, the first of them:"
    assert [line.split(": ")[0] for line in listed] == [
        f"  {folder}/a.jsonl, line 3001",
        f"  {folder}/b.jsonl, line 1",
    ]
    assert remedy == "Shorten them, or set data.long_documents to truncate or split."


@pytest.mark.parametrize("count", [1, 2])
def test_no_more_long_documents_are_looked_for_than_are_listed(run, tmp_path, count):
    folder, long = tmp_path / "many", texts(*["the cat " * 100] * 15)
    for name in ("a", "b"):
        write_rows(folder / f"{name}.jsonl", long)
    with pytest.raises(DataError) as error:
        run(count, folder, long_documents="refuse")
    _, *listed, _ = str(error.value).splitlines()
    assert len(listed) == 20
    assert listed[-1].startswith(f"  {folder}/b.jsonl, line 5: ")


def test_a_process_that_dies_is_an_error(run, rows, monkeypatch):
    def killed(*args):
        for child in multiprocessing.active_children():
            child.kill()
        return received(*args)

    received = processes.received
    monkeypatch.setattr(processes, "received", killed)
    match = r"data\.path=.*rows: a process that prepares a part .*\nIf the system killed it"
    with pytest.raises(DataError, match=match):
        run(2, rows, max_bad_rows=9)


PREPARE = """
import dataclasses, sys
from pathlib import Path
from pipeline.data.preparation import processes
from pipeline.data.preparation.prepare import prepare
from tests.support.prepared import SETTINGS

if __name__ == "__main__":
    processes.allowed_cores = lambda: 2
    processes.MIN_PART_BYTES = 1
    rows, model, out = map(Path, sys.argv[1:])
    prepare(dataclasses.replace(SETTINGS, path=rows, tokenizer_source=model), out)
"""


@pytest.fixture
def start(tmp_path, model):
    """Start a preparation of so many rows, in two processes and a process group."""
    with ExitStack() as stack:

        def start_with(count):
            folder, out = tmp_path / "rows", tmp_path / "out"
            for name in ("a", "b"):
                write_rows(folder / f"{name}.jsonl", texts(*sentences(count)))
            script = tmp_path / "prepare_rows.py"
            script.write_text(PREPARE)
            out.mkdir()
            process = subprocess.Popen(
                [sys.executable, str(script), str(folder), str(model), str(out)],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield start_with


def test_an_interrupt_is_left_to_the_process_that_started_the_others(start):
    started = start(60)
    parts = set()
    while len(parts) < 2 and started.poll() is None:
        children = psutil.Process(started.pid).children()
        for child in children:
            if child not in parts and "spawn_main" in " ".join(child.cmdline()):
                child.send_signal(signal.SIGINT)
                parts.add(child)
    assert started.wait(60) == 0


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_one_that_started_it(tmp_path, start, sent):
    started = start(100_000)
    parts = list((tmp_path / "out").glob(".parts*/*/.hashes"))
    while len(parts) < 2 and started.poll() is None:
        time.sleep(0.05)
        parts = list((tmp_path / "out").glob(".parts*/*/.hashes"))
    children = psutil.Process(started.pid).children(recursive=True)
    assert len(children) >= 2
    os.killpg(started.pid, sent) if sent == signal.SIGINT else started.kill()
    assert started.wait(20) != 0
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []

"""Faults around every stage: one message and its own exit code, and the earlier output stays.

The rows of `FAULTS` are tried in every stage, as real processes.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from pipeline.config.graph import dvc_stages
from tests.support.small import ROOT
from tests.support.stage_runs import (
    OUTPUTS,
    SMALLEST,
    command,
    contents,
    environment,
    hidden,
    make_world,
    place_with,
    run,
)

STAGES = list(SMALLEST)
WRITING = [stage for stage in STAGES if stage != "benchmark"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The outputs of all stages on the smallest settings."""
    return make_world(tmp_path_factory.mktemp("world") / "run")


def test_the_stages_of_dvc_yaml_are_all_tried(world):
    assert set(STAGES) == dvc_stages().keys() - {"params"}
    assert hidden(world) == []


class Place:
    """A folder to write in, with the earlier output of a stage."""

    def __init__(self, world, stage, folder):
        self.world, self.stage, self.folder, self.out = world, stage, folder, folder / "out"
        self.before = place_with(world, stage, self.out)
        self.output = self.out / OUTPUTS[stage]

    def run(self, *more, **options):
        return run(self.stage, self.out, *more, earlier=self.world, **options)


@pytest.fixture
def place(world, stage, tmp_path):
    return Place(world, stage, tmp_path)


def refused(done, pattern, code=os.EX_IOERR):
    """Hold how a stage ended against what was promised."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert re.search(pattern, done.stderr), done.stderr


# What a limit or a disk refuses


@contextlib.contextmanager
def mounted(folder, options):
    """Mount a small disk, or skip."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here: that needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def small_files(place):
    done = place.run(shell="ulimit -f 8")
    return done, r"(?s)no file may be larger|`ulimit -f`|File too large"


def lock_is_a_folder(place):
    (place.out / f".{place.stage}.lock").mkdir()
    return place.run(), rf"\.{place.stage}\.lock: Is a directory: is a folder, and a file is needed"


def lock_leads_in_a_circle(place):
    lock = place.out / f".{place.stage}.lock"
    lock.symlink_to(lock)
    return place.run(), r"\.lock: Too many levels of symbolic links: its links lead in a circle"


def few_open_files(place):
    done = place.run(shell="ulimit -n 20")
    return done, r"may open only 20 files \(`ulimit -n`\), and a stage needs 32"


def run_folder_below_a_file(place):
    (place.folder / "file").touch()
    done = run(place.stage, place.folder / "file/run", earlier=place.world)
    return done, r"file/run: Not a directory: a part of this path is a file"


def output_is_below_a_file(place):
    parent = place.output.parent
    shutil.move(parent, place.folder / "aside")
    parent.touch()
    done = place.run()
    parent.unlink()
    shutil.move(place.folder / "aside", parent)
    return done, rf"{parent}: File exists: is a file, and a folder is needed"


def fill(file):
    """Take all the room there is."""
    with file.open("wb", buffering=0) as filling, contextlib.suppress(OSError):
        while True:
            filling.write(b"x" * 4096)


def full_disk(place):
    with mounted(place.folder / "disk", "size=4m"):
        shutil.copytree(place.out, place.folder / "disk/out")
        place.out = place.folder / "disk/out"
        place.output = place.out / OUTPUTS[place.stage]
        fill(place.folder / "disk/filling")
        done = place.run()
        assert contents(place.output) == place.before
    return done, r"the disk is full \(0 bytes are free\)\. Make room on it|has room|Unable to write"


def read_only_disk(place):
    with mounted(place.folder / "disk", "size=8m"):
        shutil.copytree(place.out, place.folder / "disk/out")
        disk = str(place.folder / "disk")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        done = run(place.stage, place.folder / "disk/out", earlier=place.world)
    return done, r"disk/out\S*: Read-only file system: the disk is read-only\. Mount it for writing"


REFUSED = {
    "small files": small_files,
    "lock is a folder": lock_is_a_folder,
    "lock leads in a circle": lock_leads_in_a_circle,
    "few open files": few_open_files,
    "run folder below a file": run_folder_below_a_file,
    "output below a file": output_is_below_a_file,
    "full disk": full_disk,
    "read-only disk": read_only_disk,
}
IN_BRIEF = ("small files", "lock is a folder")
"""Tried without --exhaustive too."""


def table(faults, brief=()):
    """List faults by stages as parameters of a test."""
    exhaustive = pytest.mark.exhaustive
    return [
        pytest.param(stage, name, marks=[] if name in brief else [exhaustive], id=f"{stage} {name}")
        for name in faults
        for stage in STAGES
    ]


@pytest.mark.parametrize(("stage", "fault"), table(REFUSED, IN_BRIEF))
def test_a_fault_is_told_and_leaves_the_earlier_output(place, fault):
    done, pattern = REFUSED[fault](place)
    refused(done, pattern)
    if place.out.is_dir():  # the disk is still there
        assert contents(place.output) == place.before
        shutil.rmtree(place.out / ".hydra", ignore_errors=True)
        left = [name for name in hidden(place.out) if not name.endswith(".lock")]
        assert left == []


# What a stage can do without

HARMLESS = {
    "HOME and cache unusable": {"HOME": "/dev/null/x", "XDG_CACHE_HOME": None},
    "no HOME": {"HOME": None, "XDG_CACHE_HOME": None},
    "cache unusable": {"XDG_CACHE_HOME": "/dev/null/x"},
    "TMPDIR unusable": {"TMPDIR": "/dev/null/x"},
}


@pytest.mark.parametrize(("stage", "lack"), table(HARMLESS))
def test_a_stage_works_all_the_same(place, lack):
    if lack == "no HOME":  # the system knows the user's folder
        pytest.importorskip("pwd").getpwuid(os.getuid())
    done = place.run(**HARMLESS[lack])
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if place.stage in WRITING:
        assert contents(place.output) == contents(place.world / OUTPUTS[place.stage])


@pytest.mark.exhaustive
@pytest.mark.parametrize("stage", WRITING)
def test_an_output_that_is_a_link_to_a_bigger_disk_stays_one(place):
    shutil.move(place.output, place.folder / "bigger")
    place.output.symlink_to(place.folder / "bigger")
    done = place.run()
    assert done.returncode == 0, done.stderr
    assert place.output.is_symlink()
    assert contents(place.folder / "bigger") == contents(place.world / OUTPUTS[place.stage])


@pytest.mark.exhaustive
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_folder_that_is_a_link_does_not_hide_a_refusal(world, stage, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    done = run(stage, tmp_path / "link", "inputs=/nowhere", earlier=world)
    refused(done, "inputs=/nowhere: there is no such run folder", code=1)
    assert (tmp_path / "link").is_symlink()


@pytest.mark.exhaustive
@pytest.mark.parametrize("stage", ["weights", "train"])
def test_checkpoints_that_cannot_be_made_are_told(place, tmp_path):
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository/.checkpoints").touch()
    done = place.run(DVC_ROOT=str(tmp_path / "repository"))
    refused(done, r"\.checkpoints.*: (Not a directory|File exists): ")
    assert contents(place.output) == place.before


# Two processes


def stopped_in_the_middle(place):
    """Start a stage, and stop it as soon as it has begun to write."""
    process = subprocess.Popen(
        command(place.stage, place.out, earlier=place.world),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    lock = place.out / f".{place.stage}.lock"
    deadline = time.monotonic() + 120
    while not (lock.is_file() and lock.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)
    return process


@pytest.mark.exhaustive
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_of_a_stage_do_not_mix(place):
    first = stopped_in_the_middle(place)
    try:
        refused(place.run(), rf"is already writing there, in process {first.pid}\.\nWait for it")
        first.send_signal(signal.SIGCONT)
        assert first.wait(120) == 0
    finally:
        first.kill()
        first.wait()
    assert hidden(place.out) == [".hydra"] or hidden(place.out) == []
    if place.stage in WRITING:
        assert contents(place.output) == contents(place.world / OUTPUTS[place.stage])


# Under DVC


@pytest.mark.exhaustive
@pytest.mark.parametrize("stage", STAGES)
def test_under_dvc_the_message_names_the_way_back(place):
    (place.out / f".{place.stage}.lock").mkdir()
    done = place.run(DVC_STAGE=place.stage)
    refused(done, "DVC had removed the earlier outputs .* `dvc checkout` brings them back")


# What was changed between stages

READ = {
    "weights": ["data/prepared/tokenizer/tokenizer.json"],
    "train": ["data/prepared/train/tokens.bin", "models/base/config.json"],
    "export": [
        "data/prepared/validation/store.json",
        "models/base/config.json",
        "models/trained/adapter_config.json",
        "models/trained/adapters.safetensors",
    ],
    "validate": [
        "data/prepared/test/store.json",
        "models/base/model.safetensors",
        "models/trained/adapter_config.json",
    ],
    "benchmark": ["data/prepared/train/tokens.bin", "models/trained/adapters.safetensors"],
}
"""Some of the files that each stage reads."""


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        pytest.param(stage, name, marks=[pytest.mark.exhaustive] if index else [])
        for stage, names in READ.items()
        for index, name in enumerate(names)
    ],
)
def test_what_was_changed_since_is_refused(world, stage, name, tmp_path):
    shutil.copytree(world, tmp_path / "changed")
    file = tmp_path / "changed" / name
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = run(stage, tmp_path / "out", earlier=tmp_path / "changed")
    inner = name.split("/", 2)[2]
    refused(done, rf"is not what its stage has written .*\n  {inner}: has changed\n`python", code=1)
    assert f"stages.{ {v: k for k, v in OUTPUTS.items()}['/'.join(name.split('/')[:2])] }" in (
        done.stderr
    )
    assert not (tmp_path / "out").exists()

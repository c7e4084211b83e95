"""A save may be killed, may fail, or may lose its power at any call: no checkpoint is lost by it."""

import re
import shutil
import signal
from dataclasses import dataclass, field

import numpy as np
import pytest

from pipeline.errors import CheckpointError
from pipeline.train.checkpoint import CheckpointFolder
from pipeline.train.manifest import ARRAYS, flaw
from tests.crash_driver import DONE, REFUSED, sample
from tests.syscalls import CHANGING, STRACE, Driver, Recording, write_state

pytestmark = pytest.mark.skipif(STRACE is None, reason="strace is absent: no call can be stopped")
SAMPLED = 6
"""Without --exhaustive, one call in so many is stopped."""


@dataclass(frozen=True)
class Scenario:
    """What lies in the folder, and what is done then.

    Attributes:
        before: steps of the checkpoints that are there.
        saves: steps that the process saves.
        damaged: which of those that are there is damaged.
    """

    before: list[int]
    saves: list[int]
    keep: int = 2
    damaged: list[int] = field(default_factory=list)

    @property
    def newest(self):
        return max(set(self.before) - set(self.damaged), default=None)

    def command(self, folder):
        return {"folder": str(folder), "keep": self.keep, "saves": self.saves}

    def prepare(self, base):
        """Make the folder as it is before; give the run's own folder in it."""
        run = base / "deep/run"
        if self.before:
            folder = CheckpointFolder(run, keep=9)
            for step in self.before:
                folder.save(sample(step))
            for step in self.damaged:
                path = folder.path(step) / ARRAYS
                path.write_bytes(path.read_bytes()[:-1] + b"x")
        else:
            base.mkdir()
        return run


SCENARIOS = {
    "first": Scenario([], [1]),
    "second": Scenario([1], [2]),
    "last of one": Scenario([1], [2], keep=1),
    "prunes": Scenario([1, 2], [3]),
    "replaces a damaged one": Scenario([1, 2], [2], damaged=[2]),
    "passes a damaged one": Scenario([1, 3], [2], keep=1, damaged=[3]),
    "again": Scenario([1, 2], [2], keep=1),
}
FAULTS = ["signal=SIGKILL", "error=EIO", "error=ENOSPC", "error=EDQUOT"]


@pytest.fixture(scope="module")
def driver():
    driver = Driver()
    yield driver
    driver.close()


@pytest.fixture
def thorough(request):
    return request.config.getoption("--exhaustive")


def same(checkpoint, step):
    """Tell whether a checkpoint is to the bit the one that was saved at a step."""
    saved = sample(step)
    return (
        (checkpoint.step, checkpoint.state) == (step, saved.state)
        and sorted(checkpoint.arrays) == sorted(saved.arrays)
        and all(
            np.array_equal(np.array(value), np.array(saved.arrays[name]))
            for name, value in checkpoint.arrays.items()
        )
    )


def newest_step(run):
    """Read as a restarted run would; give the step, None where there is no checkpoint."""
    found = CheckpointFolder(run, keep=2).newest()
    assert found is None or same(found, found.step)
    return found and found.step


def broken(run, known=()):
    """List the committed steps that do not verify, those apart that did not before."""
    folder = CheckpointFolder(run, keep=2)
    return [step for step in folder.steps() if flaw(folder.path(step)) and step not in known]


def strays(run):
    return [path.name for path in run.iterdir() if path.name.startswith(".tmp-")]


# Every call, killed and failed


def check_point(scenario, run, status):
    """Hold what is found after a fault against what was promised."""
    assert status in (DONE, REFUSED, -signal.SIGKILL)
    found = newest_step(run)
    if status == DONE:
        assert found == scenario.saves[-1]
    elif status == REFUSED:
        assert found == scenario.newest
        assert not run.exists() or not strays(run)
    else:
        assert found in (scenario.newest, scenario.saves[-1])
    assert not broken(run, scenario.damaged)


def check_recovery(run, keep):
    """The next save goes well, and clears away what the fault has left."""
    folder = CheckpointFolder(run, keep)
    folder.newest()
    folder.save(sample(9))
    assert newest_step(run) == 9
    assert not strays(run)
    assert len(folder.steps()) <= keep
    assert not broken(run)


def readable(line):
    """Give a line of a trace with its strings as text, cut short."""
    text = re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), line)
    return f"{text[:200]!r}"


def sweep(scenario, fault, driver, tmp_path, points):
    """Stop one call after the other; give how many were stopped."""
    scenario.prepare(tmp_path / "before")
    shutil.copytree(tmp_path / "before", tmp_path / "dry")
    status, calls = driver.run(scenario.command(tmp_path / "dry/deep/run"))
    assert status == DONE
    check_point(scenario, tmp_path / "dry/deep/run", status)
    chosen = points(len(calls))
    for point in chosen:
        base = tmp_path / f"point-{point}"
        shutil.copytree(tmp_path / "before", base)
        run = base / "deep/run"
        inject = f"inject={CHANGING}:{fault}:when={point}"
        status, trace = driver.run(scenario.command(run), "-e", inject)
        try:
            check_point(scenario, run, status)
            check_recovery(run, scenario.keep)
        except AssertionError as error:
            last = readable(trace[min(point, len(trace)) - 1])
            raise AssertionError(f"{fault} at call {point}, {last}: status {status}") from error
        shutil.rmtree(base)
    return len(chosen)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fault_at_any_call_leaves_the_newest_or_the_one_before(name, driver, tmp_path):
    for offset, fault in enumerate(FAULTS):
        folder = tmp_path / fault
        folder.mkdir()
        points = lambda count, first=1 + offset: range(first, count + 1, SAMPLED)
        assert sweep(SCENARIOS[name], fault, driver, folder, points)


@pytest.mark.exhaustive
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fault_at_every_call_leaves_the_newest_or_the_one_before(name, fault, driver, tmp_path):
    count = sweep(SCENARIOS[name], fault, driver, tmp_path, lambda count: range(1, count + 2))
    assert count > 50
    print(f"{count} points of {name}, {fault}")


@pytest.mark.parametrize("fault", ["error=EIO", "error=EINTR"])
def test_a_read_that_fails_is_never_taken_for_an_empty_folder(driver, tmp_path, fault):
    """Reading less than there is would start a run afresh, over what it has reached."""
    Scenario([1, 2], []).prepare(tmp_path / "base")
    run, calls = tmp_path / "base/deep/run", "openat,read,pread64,getdents64,statx,newfstatat,mmap"
    statuses = []
    for point in range(1, 200):
        inject = f"inject={calls}:{fault}:when={point}"
        status, _ = driver.run({"folder": str(run), "keep": 2, "saves": []}, "-e", inject)
        statuses.append(status)
        assert newest_step(run) == 2
    assert set(statuses) <= {DONE, REFUSED}


# Power loss


SESSIONS = {name: [(scenario.saves, "")] for name, scenario in SCENARIOS.items()} | {
    "goes on": [([2], ""), ([3, 4], "")],
    "killed before the last fsync": [([2], "KILL"), ([2], "")],
    "killed, then saves later": [([2], "KILL"), ([3], "")],
    "fsync of the parent fails": [([2, 3], "FAIL")],
    "fsync of the parent fails, then again": [([2, 2, 3], "FAIL")],
}

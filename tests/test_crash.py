"""A save may be killed, fail or lose its power at any call: no checkpoint is lost by it."""

import re
import shutil
import signal
from dataclasses import dataclass, field

import numpy as np
import pytest

from pipeline.errors import CheckpointError
from pipeline.train.checkpoints.folder import CheckpointFolder
from pipeline.train.checkpoints.manifest import ARRAYS, problem_of
from tests.support.crash_driver import DONE, REFUSED, sample
from tests.support.syscalls import STRACE, Driver, Recording, points, readable, write_state

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
def driver(tmp_path_factory):
    driver = Driver()
    command = {"folder": str(tmp_path_factory.mktemp("probe")), "keep": 1, "saves": []}
    _, trace = driver.run(command)
    if not trace:
        driver.close()
        pytest.skip("strace may not attach to another process here")
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


def content(path):
    return {file.name: file.read_bytes() for file in path.iterdir()} if path.exists() else None


def broken(run, before):
    """List the committed steps that do not verify, and are not what they were before."""
    folder = CheckpointFolder(run, keep=2)
    flawed = [folder.path(step) for step in folder.steps() if problem_of(folder.path(step))]
    return [path.name for path in flawed if content(path) != content(before / path.name)]


def strays(run):
    return [path.name for path in run.iterdir() if path.name.startswith(".tmp-")]


# Every call, killed and failed


def check_point(scenario, run, before, status):
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
    assert not broken(run, before)


def check_recovery(run, keep):
    """The next save goes well, and clears away what the fault has left."""
    folder = CheckpointFolder(run, keep)
    folder.newest()
    folder.save(sample(9))
    assert newest_step(run) == 9
    assert not strays(run)
    assert len(folder.steps()) <= keep


def sweep(scenario, fault, driver, tmp_path, start, stride):
    """Stop one call after the other; give the exit statuses."""
    before = scenario.prepare(tmp_path / "before")
    shutil.copytree(tmp_path / "before", tmp_path / "dry")
    status, trace = driver.run(scenario.command(tmp_path / "dry/deep/run"))
    check_point(scenario, tmp_path / "dry/deep/run", before, status)
    statuses = [status]
    for index in range(start, len(trace), stride):
        run = tmp_path / f"{index}/deep/run"
        shutil.copytree(tmp_path / "before", tmp_path / f"{index}")
        status, _ = driver.run(scenario.command(run), fault, points(trace)[index])
        try:
            check_point(scenario, run, before, status)
            check_recovery(run, scenario.keep)
        except (AssertionError, CheckpointError) as error:
            message = f"{fault} at call {index}, {readable(trace[index])[:200]}: status {status}"
            raise AssertionError(message) from error
        statuses.append(status)
    return statuses


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fault_at_any_call_leaves_the_newest_or_the_one_before(name, driver, tmp_path):
    statuses = []
    for start, fault in enumerate(FAULTS):
        (tmp_path / fault).mkdir()
        statuses += sweep(SCENARIOS[name], fault, driver, tmp_path / fault, start, SAMPLED)
    assert {-signal.SIGKILL, REFUSED} <= set(statuses)


@pytest.mark.exhaustive
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fault_at_every_call_leaves_the_newest_or_the_one_before(name, fault, driver, tmp_path):
    statuses = sweep(SCENARIOS[name], fault, driver, tmp_path, 0, 1)
    print(f"{len(statuses)} points of {name}, {fault}")
    if fault == "signal=SIGKILL":
        assert set(statuses[1:]) == {-signal.SIGKILL}


READING = "openat,pread64,getdents64,newfstatat,statx"


@pytest.mark.parametrize("fault", ["error=EIO", "error=EACCES"])
def test_a_folder_that_cannot_be_read_is_never_taken_for_an_empty_one(
    driver, tmp_path, thorough, fault
):
    """A run that found nothing would start afresh, over what it has reached."""
    run = Scenario([1, 2], []).prepare(tmp_path / "base")
    command = {"folder": str(run), "keep": 2, "saves": []}
    status, trace = driver.run(command, calls=READING)
    assert status == DONE
    statuses = [
        driver.run(command, fault, point, READING)[0]
        for point in [("pread64", 0), *points(trace)[:: 1 if thorough else SAMPLED]]
    ]
    assert set(statuses) <= {DONE, REFUSED}
    assert newest_step(run) == 2


# Power loss

NOTHING = Scenario([], [])
ONE = Scenario([1], [], keep=1)
SESSIONS = {name: (scenario, [("", scenario.saves)]) for name, scenario in SCENARIOS.items()} | {
    "goes on": (NOTHING, [("", [1, 2]), ("", [3, 4])]),
    "killed, then saves it again": (ONE, [("signal=SIGKILL", [2]), ("", [2])]),
    "killed, then saves a later one": (ONE, [("signal=SIGKILL", [2]), ("", [3])]),
    "fails, then saves it again": (ONE, [("error=EIO", [2, 2])]),
    "fails, then saves a later one": (ONE, [("error=EIO", [2, 3])]),
}
"""For each, what processes save one after the other, some stopped after the rename, before it is
durable: the worst of all moments."""


def fsync_after_rename(trace):
    """Find the call that makes a new checkpoint's name durable."""
    lines = [readable(line) for line in trace]
    rename = next(i for i, line in enumerate(lines) if re.search(r' rename.*/step-\d+"', line))
    return next(point for point in points(trace)[rename:] if point[0] == "fsync")


def record(scenario, sessions, driver, tmp_path):
    """Let processes save one after the other; give what they have done to the disk."""
    base = tmp_path / "base"
    run = scenario.prepare(base)
    shutil.copytree(base, tmp_path / "before")
    traces = []
    for fault, saves in sessions:
        point = None
        if fault:
            shutil.copytree(base, tmp_path / "dry")
            dry = {"folder": str(tmp_path / "dry/deep/run"), "keep": scenario.keep, "saves": saves}
            point = fsync_after_rename(driver.run(dry)[1])
        command = {"folder": str(run), "keep": scenario.keep, "saves": saves}
        status, trace = driver.run(command, fault, point)
        assert status == {"": DONE, "signal=SIGKILL": -signal.SIGKILL, "error=EIO": REFUSED}[fault]
        traces.append(trace)
    return Recording(base, tmp_path / "before", traces)


def durable_steps(recording, newest):
    """Give, for each number of operations, the newest step that was committed by then."""
    floors, renamed = [newest], {}
    for operation in recording.operations:
        floor = floors[-1]
        if operation.kind == "names":
            for name, inode in operation.change.items():
                if name.startswith("step-"):
                    renamed[operation.inode] = int(name[5:]) if inode else None
        if operation.kind == "sync" and (step := renamed.pop(operation.inode, None)):
            floor = max(floor or 0, step)
        floors.append(floor)
    return floors


def states(recording, thorough):
    """Yield every state of the disk after a power loss, and the number of operations begun."""
    for length in range(len(recording.operations) + 1):
        for missing in recording.losses(length, thorough):
            data = any(recording.operations[index].kind == "data" for index in missing)
            for damage in ("absent", "zeros", "half") if data else ("absent",):
                yield length, recording.state(length, missing, damage)


def read_after_loss(state, scenario, tmp_path):
    """Read a state as a restarted run would, and let it save; give the step that it finds."""
    disk = tmp_path / "disk"
    write_state(state, disk)
    run = disk / "deep/run"
    found = newest_step(run)
    assert not broken(run, tmp_path / "before/deep/run")
    check_recovery(run, scenario.keep)
    shutil.rmtree(disk)
    return found


@pytest.mark.parametrize("name", SESSIONS)
def test_no_power_loss_takes_away_what_was_committed(name, driver, tmp_path, thorough):
    scenario, sessions = SESSIONS[name]
    recording = record(scenario, sessions, driver, tmp_path)
    floors = durable_steps(recording, scenario.newest)
    assert floors[-1] == sessions[-1][1][-1]
    found, count = {}, 0
    for length, state in states(recording, thorough):
        count += 1
        named = frozenset(item for item in state if "/.tmp-" not in item[0])
        if named not in found:  # what has no name is not read
            found[named] = read_after_loss(state, scenario, tmp_path)
        done = [operation.label for operation in recording.operations[:length]][-4:]
        assert (found[named] or 0) >= (floors[length] or 0), f"after {done}: {sorted(dict(named))}"
    print(f"{name}: {count} states, {len(found)} unlike")
    assert count > len(recording.operations)

"""A stage may be killed at any call: the earlier output or the new one is at its place, whole."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from pipeline.config.graph import makers
from pipeline.config.outputs import OutputLock, check_sealed
from pipeline.train.supervise.run_folder import RESULTS
from tests.support.stage_runs import OUTPUTS, command, contents, hidden, make_world
from tests.support.syscalls import PATHS, STRACE, Driver, Fresh, points

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(STRACE is None, reason="strace is absent: no call can be stopped"),
]
STAGES = ("prepare", "weights", "export", "validate")
FORKED = ("prepare", "weights")
"""The others compute by MLX, which does not survive a fork."""
KEEPS_RESULTS = ("validate",)
"""What they have measured stays in .checkpoints until the next start has ended, and is used."""
PROGRAM = Path(__file__).with_name("support") / "stage_driver.py"
CALLS = (
    "write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,mkdir,unlink,unlinkat,rmdir,"
    "chmod,ftruncate,flock"
)
KILL = "signal=SIGKILL"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The outputs of all stages on the smallest settings."""
    return make_world(tmp_path_factory.mktemp("world") / "run")


@pytest.fixture(scope="module")
def driver():
    driver = Driver(PROGRAM, *FORKED)
    yield {name: driver if name in FORKED else Fresh() for name in STAGES}
    driver.close()


class Stage:
    """A stage that is run again and again, over an earlier output that differs from its own."""

    def __init__(self, name, world, folder, driver):
        self.name, self.world, self.folder, self.driver = name, world, folder, driver
        self.earlier = folder / "earlier"
        shutil.copytree(world / OUTPUTS[name], self.earlier / OUTPUTS[name])
        for kind in ("metrics", "plots"):
            shutil.copytree(world / kind, self.earlier / kind)
        (self.earlier / OUTPUTS[name] / "SHA256SUMS").write_text("earlier\n")
        self.before = contents(self.earlier / OUTPUTS[name])
        status, self.trace, out = self.run("dry")
        assert status == 0, status
        self.after = contents(out / OUTPUTS[name])
        assert self.after != self.before

    def run(self, place, *fault, **options):
        """Run over a copy of the earlier output; return status, trace and where it wrote."""
        out = self.folder / place
        if not out.exists():
            shutil.copytree(self.earlier, out)
        words = command(self.name, out, earlier=self.world)[3:]
        if self.name == "weights":  # one that exists: another process makes a new one
            model = ["model=local", f"model.source={self.world / OUTPUTS['weights']}"]
            words = [word for word in words if "pretrain" not in word] + model
        given = [self.name, words]
        if self.name not in FORKED:
            options["root"] = out
        status, trace = self.driver[self.name].run(
            given, *fault, calls=CALLS, show=PATHS, **options
        )
        return status, trace, out

    def points(self):
        """List the calls that touch what it writes."""
        calls = zip(points(self.trace), self.trace, strict=True)
        return [(point, line) for point, line in calls if str(self.folder / "dry") in line]

    def check(self, out, line):
        """Hold what a kill has left against what was promised."""
        found = out / OUTPUTS[self.name]
        assert found.is_dir(), f"nothing is there after {line}"
        assert contents(found) in (self.before, self.after), f"neither old nor new after {line}"
        for file in (out / "metrics").glob("*.json"):
            json.loads(file.read_text())

    def check_recovery(self, out, line):
        """Begin as the next start does: what was left goes, and nothing else."""
        outputs = [name for name, maker in makers().items() if maker == self.name]
        with OutputLock(self.name, out).held(outputs):
            self.check(out, line)
        shutil.rmtree(out / ".hydra", ignore_errors=True)
        left = hidden(out)
        if self.name in KEEPS_RESULTS:
            left = [name for name in left if not name.startswith(".checkpoints")]
        assert left == [], f"left after {line}"


@pytest.mark.parametrize("name", STAGES)
def test_a_kill_at_every_call_leaves_the_earlier_output_or_the_new_one(
    name, world, driver, tmp_path
):
    stage = Stage(name, world, tmp_path, driver)
    tried = stage.points()
    new = 0
    for number, (point, line) in enumerate(tried):
        status, _, out = stage.run(str(number), KILL, point)
        assert status == -signal.SIGKILL, line
        stage.check(out, line)
        stage.check_recovery(out, line)
        new += contents(out / OUTPUTS[name]) == stage.after
        shutil.rmtree(out)
    print(f"{name}: killed at {len(tried)} calls, {new} after the exchange")
    assert 0 < new < len(tried)


def test_a_validation_goes_on_after_each_result_that_was_kept(world, driver, tmp_path):
    """Killed while it keeps a result, it ends with the same bytes and measures only the rest."""
    stage = Stage("validate", world, tmp_path, driver)
    kept = [(point, line) for point, line in stage.points() if is_kept(line)]
    assert len(kept) > 6
    metrics = (tmp_path / "dry/metrics/validate.json").read_bytes()
    for number, (point, line) in enumerate(kept):
        status, _, out = stage.run(str(number), KILL, point)
        assert status == -signal.SIGKILL, line
        status, trace, _ = stage.run(str(number))
        assert status == 0
        assert contents(out / OUTPUTS["validate"]) == stage.after
        assert (out / "metrics/validate.json").read_bytes() == metrics
        left = sum(is_kept(line) for line in trace)
        print(f"killed at result {number} of {len(kept)}: {left} more were measured")
        assert left == len(kept) - number, "the one that it was killed at has been kept"


def is_kept(line):
    """Whether a call brings a result of a validation to the disk."""
    return line.split()[1].startswith("fsync") and RESULTS in line


@pytest.mark.parametrize("name", STAGES)
def test_where_names_cannot_be_exchanged_the_next_start_brings_back_what_was(
    name, world, driver, tmp_path
):
    """A kill between two renames takes the output away until then."""
    stage = Stage(name, world, tmp_path, driver)
    absent = {"always": ["renameat2:error=EINVAL"]}
    status, stage.trace, _ = stage.run("two", **absent)
    assert status == 0
    calls = zip(points(stage.trace), stage.trace, strict=True)
    place, last = str(stage.folder / "two"), Path(OUTPUTS[name]).name
    renames = [
        point for point, line in calls if point[0] == "rename" and place in line and last in line
    ]
    assert len(renames) >= 3
    away = 0
    for number, point in enumerate(renames):
        status, _, out = stage.run(str(number), KILL, point, **absent)
        assert status == -signal.SIGKILL
        away += not (out / OUTPUTS[name]).exists()
        stage.check_recovery(out, point)
    print(f"{name}: killed at {len(renames)} renames, {away} times nothing was there")
    assert away


def test_an_output_that_was_killed_after_the_exchange_is_whole(world, tmp_path):
    """What the sweep takes for whole passes the check of the next stage."""
    for name in STAGES:
        check_sealed(world / OUTPUTS[name], "")

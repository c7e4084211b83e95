"""A comparison that is stopped: what was measured is kept, and nothing else is left."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from pipeline.benchmark.peers.child import run_module
from pipeline.benchmark.peers.signals import stop_at_signal
from pipeline.errors import Stopped
from pipeline.files import ROOT
from tests.support.small_peers import lay_out_rows, small


def trains(process):
    """Whether a process has become a program."""
    try:
        return {"pipeline.benchmark.peers.ours", "pipeline.benchmark.peers.mlx_lm_lora"} & {
            *process.cmdline()[:3]
        }
    except psutil.NoSuchProcess:
        return False


def heed_hang_ups():
    """Undo what a `nohup` before the tests would do."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class StageProcess:
    """The stage as a process, with small models."""

    def __init__(self, folder, num_steps):
        (folder / "rows").mkdir()
        (folder / "tmp").mkdir()
        self.seen = []
        self.run, self.temporary, self.log = folder / "run", folder / "tmp", folder / "log"
        overrides = [
            *small(lay_out_rows(folder / "rows")),
            "benchmark.peers.parts=[all_blocks]",
            f"benchmark.num_steps={num_steps}",
            "benchmark.num_runs=9",
            f"hydra.run.dir={self.run}",
        ]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stages.benchmark", *overrides],
                cwd=ROOT,
                env=os.environ | {"TMPDIR": str(self.temporary), "MLX_DISABLE_COMPILE": "1"},
                stderr=log,
                preexec_fn=heed_hang_ups,
            )

    def wait_for(self, text):
        """Wait until it has said something; give the programs that train then."""
        limit = time.monotonic() + 120
        while text not in self.log.read_text() or not any(map(trains, self.programs())):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < limit, self.log.read_text()
            time.sleep(0.05)
        self.seen = self.programs()
        return self.seen

    def programs(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number):
        self.process.send_signal(number)
        return self.process.wait(60)

    def left(self):
        return [path.name for path in self.temporary.iterdir() if "tidewheel-peers" in path.name]


@pytest.fixture
def comparison(tmp_path, request):
    started = StageProcess(tmp_path, request.param)
    yield started
    started.process.kill()
    started.process.wait()
    for process in started.seen:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def steps(number):
    """Choose how many steps a run of mlx-lm has."""
    return pytest.mark.parametrize("comparison", [number], indirect=True)


FOREVER = 10**6


@steps(2)
def test_sigterm_ends_all_and_keeps_what_was_measured(comparison):
    running = comparison.wait_for("round 2/9: mlx_lm, 2 steps ...")
    assert comparison.left()
    assert comparison.end(signal.SIGTERM) == 143
    assert not psutil.wait_procs(running, timeout=5)[1]
    assert comparison.left() == []
    table = (comparison.run / "plots/peers.csv").read_text()
    assert "all_blocks,targets_per_second,mlx_lm,1," in table
    assert (comparison.run / "metrics/benchmark.json").exists()
    said = comparison.log.read_text()
    assert f"the figures of all_blocks are in {comparison.run}: metrics/" in said
    assert "Stopped: SIGTERM: the comparison was stopped. Started again" in said
    assert "Traceback" not in said


@steps(FOREVER)
def test_sighup_before_anything_was_measured_leaves_nothing(comparison):
    running = comparison.wait_for("round 1/9: ours, ")
    assert comparison.end(signal.SIGHUP) == 129
    assert not psutil.wait_procs(running, timeout=5)[1]
    assert comparison.left() == []
    assert not comparison.run.exists()
    assert "was stopped before anything was measured" in comparison.log.read_text()


@steps(FOREVER)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can do that")
def test_programs_die_with_their_parent(comparison):
    running = comparison.wait_for("round 1/9: ours, ")
    assert comparison.end(signal.SIGKILL) == -signal.SIGKILL
    assert not psutil.wait_procs(running, timeout=2)[1]


def test_what_runs_is_ended_before_we_go_on():
    timer = threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Stopped), stop_at_signal():
        run_module("timeit", ["-n", "1", "import time; time.sleep(60)"], {})
    assert not psutil.Process().children()


def test_one_signal_breaks_off_and_more_change_nothing():
    before = signal.getsignal(signal.SIGTERM)
    done = []
    with (
        pytest.raises(Stopped, match="SIGTERM: the comparison was stopped") as caught,
        stop_at_signal(),
    ):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            done.append("tidied up")
    assert (caught.value.exit_code, done) == (143, ["tidied up"])
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_is_ignored_stays_ignored():
    """As `nohup` has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_at_signal():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)

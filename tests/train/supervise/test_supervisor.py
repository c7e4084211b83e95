"""The supervisor: whatever kills, reloads or stops a run, it ends with the same bits."""

import contextlib
import csv
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from pipeline.train.memory import robust_slope
from tests.support.small import ROOT
from tests.support.training import Training

MODES = ("lora", "full")
EXHAUSTIVE = [pytest.mark.exhaustive]
LONG = {"train__num_steps": 44, "train__steps_per_eval": 11}
SPIKE_BYTES = 400 << 20


def machine_rows(run):
    """Read the figures of the machine of a run, by step."""
    return list(csv.DictReader((run.run / "machine.csv").read_text().splitlines()))


@pytest.mark.parametrize(
    ("mode", "interval", "size"),
    [
        ("lora", 4, {}),
        ("full", 5, {}),
        *(
            pytest.param(mode, interval, LONG, marks=EXHAUSTIVE)
            for mode in MODES
            for interval in (1, 7, 40)
        ),
    ],
)
def test_reloading_at_an_interval_changes_no_bit(training, undisturbed, mode, interval, size):
    changes = {"train__mode": mode, **size}
    done = training(settings={"reload_interval_steps": interval}, **changes).complete()
    assert done.result() == undisturbed(**changes)
    steps = size.get("train__num_steps", 12)
    assert done.metrics()["reloads"] == (steps - 1) // interval
    assert done.metrics()["reload_seconds"] > 0  # how long depends on what else runs here
    assert done.metrics()["leak_bytes_per_step"] is None  # no process was long enough to tell
    assert not done.journal("death")


@pytest.mark.parametrize("mode", ["lora", pytest.param("full", marks=EXHAUSTIVE)])
def test_reloading_a_run_on_two_threads_changes_no_bit(training, mode):
    changes, threads = {"train__mode": mode}, {"OPENBLAS_NUM_THREADS": "2"}
    whole = training("whole", **changes).complete(**threads)
    done = training("reloaded", {"reload_interval_steps": 5}, **changes).complete(**threads)
    assert done.metrics()["reloads"] == 2
    assert done.result() == whole.result()


@pytest.mark.parametrize("own", [{}, {"OPENBLAS_THREAD_TIMEOUT": "20"}], ids=["unset", "set"])
def test_threads_that_wait_leave_the_cores_to_others(training, own):
    run = training(train__num_steps=200).start(**own)
    run.wait_for_step(0)
    worker = run.workers()[0].environ()
    assert worker["OPENBLAS_THREAD_TIMEOUT"] == own.get("OPENBLAS_THREAD_TIMEOUT", "18")


EARLY = {
    "train__mode": "full",
    "train__num_steps": 60,
    "train__steps_per_eval": 2,
    "train__early_stopping_patience": 2,
    "optim__learning_rate": 0.03,
    "debug__overfit_one_batch": True,
}


@pytest.mark.parametrize("interval", [3, 4])  # 4: a reload is due where the run ends
def test_a_run_that_ends_early_does_so_with_the_same_bits_when_it_is_reloaded(
    training, undisturbed, interval
):
    done = training(settings={"reload_interval_steps": interval}, **EARLY).complete()
    assert done.result() == undisturbed(**EARLY)
    metrics = done.metrics()
    assert metrics["stopped_early_at"] == metrics["num_steps"] < 60
    assert metrics["stopped_early_at"] % 4 == 0
    assert metrics["reloads"] == (metrics["num_steps"] - 1) // interval
    assert (done.output / "best/adapters.safetensors").exists()


@pytest.fixture
def speaking_world(world, tmp_path):
    """The world with a tokenizer, so that its model can be asked."""
    folder = shutil.copytree(world, tmp_path / "world")
    words = ["<pad>", "<bos>", "<eos>", *(f"w{number}" for number in range(3, 64))]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    named = {"bos_token": "<bos>", "eos_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder / "base")
    return folder


def processes_while_sampling(run):
    """Return the programs of all processes of a run at a moment when one generates samples."""

    def running():
        with contextlib.suppress(psutil.NoSuchProcess):
            programs = [" ".join(each.cmdline()) for each in run.workers()]
            return programs if any("stages.sample" in program for program in programs) else None
        return None

    return run.wait_until(running)


@pytest.mark.exhaustive
def test_samples_between_two_workers_change_no_bit(speaking_world, undisturbed, tmp_path):
    settings = {"steps_per_sample": 7, "reload_interval_steps": 4}
    run = Training(speaking_world, tmp_path / "run", settings, {}).start()
    [program] = processes_while_sampling(run)
    assert "stages.sample" in program
    assert run.end() == 0, run.text()
    assert run.result() == undisturbed()
    [entry] = run.journal("samples")
    assert entry["step"] == 7
    assert run.metrics()["reloads"] == 3  # after 4, 7 and 8 steps
    assert run.metrics()["reload_seconds"] > entry["seconds"]
    shown = run.text().split("train step 7: samples, ")[1]
    names = re.findall(r"^  (\w+) ", shown, re.MULTILINE)[:6]
    assert names == 2 * ["prompt", "reference", "now"]
    assert not run.journal("death")


def test_a_run_whose_samples_fail_goes_on_without_them(training, undisturbed, tmp_path):
    code = "import os, sys\nif 'stages.sample' in sys.orig_argv: os._exit(3)"
    (tmp_path / "sitecustomize.py").write_text(code)
    run = training(settings={"steps_per_sample": 3}).complete(PYTHONPATH=str(tmp_path))
    assert run.result() == undisturbed()
    assert "there are no more samples: exit status 3; the training goes on" in run.text()
    assert len(run.journal("samples")) == run.metrics()["reloads"] == 1


LEAK = {"debug__leak_mb_per_step": 50.0}
THRESHOLD_GB = 0.45
BOUND_BYTES = 1.05 * THRESHOLD_GB * 1e9 + 50e6
"""The threshold, one step's growth, and 5 %."""


@pytest.mark.parametrize(
    ("mode", "size"),
    [("lora", {}), *(pytest.param(mode, LONG, marks=EXHAUSTIVE) for mode in MODES)],
)
def test_reloading_by_memory_under_a_leak_changes_no_bit_and_keeps_below(
    training, undisturbed, mode, size
):
    changes = {"train__mode": mode, **size}
    settings = {"reload_memory_threshold_gb": THRESHOLD_GB}
    run = training(settings=settings, **LEAK, **changes).start()
    assert run.most_held() <= BOUND_BYTES
    assert run.end() == 0, run.text()
    assert run.result() == undisturbed(**changes)
    assert run.metrics()["reloads"] >= 1
    assert not run.journal("death")


def test_the_same_leak_without_reloads_passes_the_bound(training):
    run = training(**LEAK).start()
    assert run.most_held() > BOUND_BYTES
    assert run.end() == 0


@pytest.mark.parametrize("leak_mb", [0.0, 5.0])
def test_the_leak_in_the_metrics_is_that_of_the_process_that_was_long_enough(training, leak_mb):
    run = training(
        settings={"reload_interval_steps": 140},
        train__num_steps=150,
        train__steps_per_eval=50,
        debug__leak_mb_per_step=leak_mb,
    ).complete()
    assert run.metrics()["reloads"] == 1
    assert run.metrics()["leak_bytes_per_step"] / 1e6 == pytest.approx(leak_mb, rel=0.1, abs=0.1)


@pytest.mark.exhaustive
def test_three_hundred_leaking_steps_stay_below_one_gigabyte(training):
    settings = {"reload_memory_threshold_gb": 1.0}
    run = training(settings=settings, train__num_steps=300, train__steps_per_eval=100, **LEAK)
    most = run.start().most_held()
    assert run.end() == 0, run.text()
    print(f"most held: {most / 1e9:.3f} GB, {run.metrics()['reloads']} reloads")
    assert most <= 1.05e9 + 50e6
    free = training("free", train__num_steps=300, train__steps_per_eval=100, **LEAK).start()
    assert free.most_held(until=1.2e9) > 1.2e9


@pytest.mark.exhaustive
def test_two_thousand_steps_without_a_leak_do_not_grow(training):
    run = training(
        train__num_steps=2000, train__steps_per_eval=500, train__steps_per_save=500
    ).complete()
    held = np.array([float(row["footprint_bytes"]) for row in machine_rows(run)[200:]])
    slope = robust_slope(held[::4]) / 4
    print(f"slope: {slope / 1e6:.5f} MB a step")
    assert slope < 0.05e6


@pytest.mark.parametrize(
    ("mode", "kills", "size"),
    [
        ("lora", 4, {}),
        *(
            pytest.param(mode, 20, {**LONG, "train__steps_per_save": 2}, marks=EXHAUSTIVE)
            for mode in MODES
        ),
    ],
)
def test_killing_the_worker_at_random_moments_changes_no_bit(
    training, undisturbed, mode, kills, size
):
    changes = {"train__mode": mode, **size}
    run = training(settings={"reload_interval_steps": 10}, **changes).start()
    generator = random.Random(5)
    steps = size.get("train__num_steps", 12)
    for kill in range(kills):
        run.wait_for_step(kill * (steps - 4) // kills)
        time.sleep(generator.random() * 0.03)
        workers = run.wait_until(run.workers)  # asked again, there might be none between two
        with contextlib.suppress(psutil.NoSuchProcess):
            generator.choice(workers).kill()
    assert run.end() == 0, run.text()
    assert run.result() == undisturbed(**changes)
    assert len(run.journal("death")) >= kills // 2  # the others hit the stand-by


REAL = {"data__arrangement": "bucketed", "train__batch_size": 4, "lora__dropout": 0.1}


COPIES = {"train__mode": "full", "model__dtype": "bfloat16"}
NO_COPIES = COPIES | {"optim__float32_copy": False}


@pytest.mark.parametrize(
    "own",
    [
        {"train__mode": "lora"},
        pytest.param({"train__mode": "full"}, marks=EXHAUSTIVE),
        pytest.param(COPIES, marks=EXHAUSTIVE),
        pytest.param(NO_COPIES, marks=EXHAUSTIVE),
    ],
    ids=["lora", "full", "float32 copies", "no copies"],
)
def test_a_real_model_ends_with_the_same_bits(real_world, tmp_path, own):
    """Reloads, and kills of a worker and of the supervisor, on real weights and rows."""
    changes = REAL | own
    whole = Training(real_world, tmp_path / "whole", {}, changes).complete()
    run = Training(real_world, tmp_path / "run", {"reload_interval_steps": 5}, changes).start()
    run.wait_for_step(3)
    run.wait_until(run.workers)
    run.workers()[0].kill()
    run.wait_for_step(6)
    run.process.kill()
    run.process.wait()
    run.complete()
    assert run.result() == whole.result()
    assert run.journal("death")
    assert run.metrics()["reloads"] >= 1


@pytest.mark.exhaustive
@pytest.mark.parametrize("rate", [1e-5, 1e-4])
def test_weights_of_16_bits_learn_as_those_of_32(real_world, tmp_path, rate):
    """Rounded to the nearest number, they end 0.6 and 1.0 nats above float32."""
    changes = {
        **REAL,
        "train__batch_size": 2,
        "train__num_steps": 60,
        "train__steps_per_eval": 60,
        "optim__learning_rate": rate,
    }
    kinds = {"float32": {"train__mode": "full"}, "copies": COPIES, "no copies": NO_COPIES}
    losses = {
        name: Training(real_world, tmp_path / name, {}, changes | own)
        .complete()
        .metrics()["val_loss"]
        for name, own in kinds.items()
    }
    print(losses)
    for name in ("copies", "no copies"):
        assert losses[name] == pytest.approx(losses["float32"], abs=0.02)


@pytest.mark.parametrize("mode", ["lora", pytest.param("full", marks=EXHAUSTIVE)])
def test_killing_the_supervisor_ends_its_workers_and_a_new_one_goes_on(training, undisturbed, mode):
    run = training(settings={"reload_interval_steps": 4}, train__mode=mode).start()
    run.wait_for_step(3)
    run.wait_until(run.workers)
    workers = run.workers()
    run.process.kill()
    run.process.wait()
    assert not psutil.wait_procs(workers, timeout=10)[1]
    run.complete()
    assert run.result() == undisturbed(train__mode=mode)
    assert run.metrics()["recoveries"] == 1


@pytest.mark.parametrize(
    ("number", "code", "mode"),
    [
        (signal.SIGTERM, 143, "lora"),
        pytest.param(signal.SIGTERM, 143, "full", marks=EXHAUSTIVE),
        (signal.SIGINT, 130, "lora"),
        (signal.SIGHUP, 129, "lora"),
    ],
)
def test_a_signal_saves_the_step_and_the_next_start_goes_on(
    training, undisturbed, number, code, mode
):
    changes = {"train__steps_per_save": 100, "train__num_steps": 400, "train__mode": mode}
    run = training(**changes).start()
    run.wait_until(lambda: "train step 20: val_loss" in run.text())
    run.process.send_signal(number)
    assert run.end() == code
    assert not (run.run / "metrics.json").exists()
    stopped_at = run.newest_step()
    assert stopped_at % 100
    assert f"stopped by {number.name} after step {stopped_at} of 400" in run.text()
    if number == signal.SIGTERM:
        run.complete()
        assert run.result() == undisturbed(**changes)
        assert run.journal("recovery")[0]["step"] == stopped_at


def test_a_signal_while_starting_ends_the_run_at_once(training, undisturbed):
    run = training().start()
    run.wait_until(run.workers)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 143
    run.complete()
    assert run.result() == undisturbed()


def test_a_second_signal_ends_it_at_once_without_harm(training, undisturbed):
    run = training(settings={"reload_interval_steps": 5}).start()
    run.wait_for_step(3)
    worker = run.workers()[0]
    worker.suspend()  # it will never finish its step
    run.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert run.process.poll() is None
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 143
    assert not psutil.wait_procs([worker], timeout=10)[1]
    run.complete()
    assert run.result() == undisturbed()


def test_a_worker_that_hangs_is_replaced(training, undisturbed):
    run = training(settings={"hang_timeout_seconds": 3.0}).start()
    run.wait_for_step(3)
    run.workers()[0].suspend()
    assert run.end() == 0, run.text()
    assert run.result() == undisturbed()
    assert "silent for 3 s" in run.journal("death")[0]["cause"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
def test_a_worker_that_cannot_allocate_is_replaced(training, undisturbed):
    resource = pytest.importorskip("resource")
    run = training(debug__leak_mb_per_step=5.0, train__num_steps=40).start()
    run.wait_for_step(3)
    worker = run.workers()[0]
    address_space = worker.memory_info().vms
    resource.prlimit(worker.pid, resource.RLIMIT_AS, (address_space, address_space))
    assert run.end() == 0, run.text()
    assert run.result() == undisturbed(train__num_steps=40)
    assert run.journal("death")


def test_a_worker_that_holds_too_much_is_ended_and_the_next_one_goes_on(training, undisturbed):
    """Every step leaks more than there may be at all, and still the run ends as it should."""
    run = training(settings={"memory_limit_gb": 0.5}, debug__leak_mb_per_step=600.0).complete()
    assert run.result() == undisturbed()
    deaths = run.journal("death")
    assert deaths
    assert all("limit 0.500 GB" in entry["cause"] for entry in deaths)


@pytest.fixture
def patched(tmp_path):
    """Make workers that run under a PYTHONPATH call a function of the test around each step."""

    def make(function):
        code = f"""
import mmap, pathlib, sys, threading, time

{function}

def change():
    while not hasattr(sys.modules.get("pipeline.train.loop"), "Trainer"):
        time.sleep(0.01)
    from pipeline.train.loop import Trainer
    one_step = Trainer.one_step
    Trainer.one_step = lambda self: around(one_step, self)

if "pipeline.train.worker.main" in sys.orig_argv:
    threading.Thread(target=change, daemon=True).start()
"""
        (tmp_path / "sitecustomize.py").write_text(code)
        return {"PYTHONPATH": str(tmp_path)}

    return make


@pytest.fixture
def spike(patched, tmp_path):
    """Make the first worker hold much for 0.1 s inside of its sixth step."""
    mark = tmp_path / "spiked"
    return patched(f"""
def around(one_step, trainer):
    result = one_step(trainer)
    if trainer.progress.step == 6 and not pathlib.Path({str(mark)!r}).exists():
        pathlib.Path({str(mark)!r}).touch()
        with mmap.mmap(-1, {SPIKE_BYTES}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
            for _ in range({SPIKE_BYTES} >> 20):
                held.write(bytes(1 << 20))
            time.sleep(0.1)
    return result
""")


METAL_LIMIT = "[metal::malloc] Resource limit (499000) exceeded."


@pytest.fixture
def metal_limit(patched):
    """Make the fifth step of each worker fail as Metal does when it holds too many buffers."""
    return patched(f"""
made = []

def around(one_step, trainer):
    made.append(trainer)
    if len(made) == 5:
        raise RuntimeError({METAL_LIMIT!r})
    return one_step(trainer)
""")


def test_a_process_that_can_make_a_few_steps_only_is_replaced_until_the_run_is_done(
    training, undisturbed, metal_limit
):
    seldom = {"train__steps_per_save": 1000, "train__steps_per_eval": 1000}
    run = training(**seldom).complete(**metal_limit)
    assert run.result() == undisturbed(**seldom)
    deaths = run.journal("death")
    assert len(deaths) > 2
    assert all(death["memory"] and METAL_LIMIT in death["cause"] for death in deaths)
    assert run.text().count("train.reload_interval_steps=2 would start another one") == 1


@pytest.mark.exhaustive
def test_a_reload_comes_before_such_a_limit(training, undisturbed, metal_limit):
    run = training(settings={"reload_interval_steps": 2}).complete(**metal_limit)
    assert run.result() == undisturbed()
    assert not run.journal("death")


def test_the_peak_of_the_footprint_is_that_within_steps(training, undisturbed, spike):
    run = training().complete(**spike)
    assert run.result() == undisturbed()
    held = [int(row["footprint_bytes"]) for row in machine_rows(run)]
    peak = run.metrics()["peak_footprint_bytes"]
    print(f"between steps {max(held)}, sampled {peak}, real {held[5] + SPIKE_BYTES} bytes")
    assert 0.95 <= peak / (held[5] + SPIKE_BYTES) <= 1.1
    assert max(held) < 0.7 * peak
    assert peak <= run.metrics()["peak_resident_bytes"]


def test_a_limit_that_is_passed_within_a_step_ends_the_worker(training, undisturbed, spike):
    run = training(settings={"memory_limit_gb": 0.5}).complete(**spike)
    assert run.result() == undisturbed()
    (death,) = run.journal("death")
    assert re.fullmatch(r"held 0\.[5-9]\d\d GB after step \d, limit 0\.500 GB", death["cause"])


@pytest.mark.parametrize("limit_gb", [0.02, 0.05])
def test_a_limit_below_what_processes_hold_without_a_model_is_refused_at_once(training, limit_gb):
    run = training(settings={"memory_limit_gb": limit_gb}).start()
    assert run.end() == 1
    assert re.search(
        rf"DeviceError: {limit_gb:.3f} GB are allowed \(train.memory_limit_gb\), and without any "
        r"model the supervisor holds 0\.\d+ GB and a worker, still starting, 0\.\d+ GB\.",
        run.text(),
    )
    assert not run.journal("death")


def test_a_threshold_below_what_a_process_needs_is_refused_with_the_number(training):
    run = training(settings={"reload_memory_threshold_gb": 0.02}).start()
    assert run.end() == 1
    assert "train.reload_memory_threshold_gb=0.02: a new process holds 0." in run.text()
    assert "Give at least 0." in run.text()


@pytest.fixture
def saboteur(tmp_path):
    """Make processes that run under a PYTHONPATH die when they begin to be workers."""

    def make(condition):
        folder = tmp_path / "saboteur"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(
            "import os, pathlib, sys\n"
            f"count = pathlib.Path({str(folder / 'count')!r})\n"
            "if 'pipeline.train.worker.main' in sys.orig_argv:\n"
            "    number = int(count.read_text()) if count.exists() else 0\n"
            "    count.write_text(str(number + 1))\n"
            f"    if {condition}:\n"
            "        os._exit(3)\n"
        )
        return {"PYTHONPATH": str(folder)}

    return make


def test_workers_that_never_start_end_the_run_with_the_state_intact(
    training, undisturbed, saboteur
):
    run = training().start(**saboteur("True"))
    assert run.end() == 70
    text = run.text()
    assert "5 workers have died without getting beyond step 0" in text
    assert "exit status 3" in text
    assert "The state is intact" in text
    run.complete()
    assert run.result() == undisturbed()


def test_a_worker_that_fails_once_is_started_again(training, undisturbed, saboteur):
    """A reload itself fails: the first process that would go on dies while it imports."""
    environment = saboteur("number == 1")
    run = training(settings={"reload_interval_steps": 6}).complete(**environment)
    assert run.result() == undisturbed()
    assert int((Path(environment["PYTHONPATH"]) / "count").read_text()) >= 3


def test_what_a_user_can_mend_in_the_machine_is_said_at_once(training):
    run = training().start(TIDEWHEEL_BLAS="/nowhere/libblas.so")
    assert run.end() == 1
    assert run.text().count("TIDEWHEEL_BLAS=/nowhere/libblas.so cannot be used") == 1
    assert "Traceback" not in run.text()


def test_an_error_of_the_user_is_not_tried_again(training):
    run = training(lora__targets=["q_porj"]).start()
    assert run.end() == 1
    assert run.text().count("q_porj: matches no layer") == 1
    assert "ConfigError" in run.text()


def test_shrinking_after_memory_deaths_is_said_and_recorded(training, undisturbed):
    run = training(settings={"shrink_on_oom": True}, train__steps_per_save=2).start()
    run.wait_for_step(2)
    first = run.newest_step()
    run.workers()[0].kill()
    for _ in range(1):
        run.wait_until(lambda: len(run.journal("death")) >= 1 and run.workers())
        run.workers()[0].kill()
    assert run.end() == 0, run.text()
    metrics = run.metrics()
    assert first >= 2
    assert "micro-batches split into 2" in metrics["inexact"][0]
    assert metrics["val_loss"] == pytest.approx(undisturbed()[3]["val_loss"], rel=1e-4)
    assert metrics["num_tokens"] == undisturbed(train__steps_per_save=2)[3]["num_tokens"]


def test_a_crash_on_purpose_costs_nothing_but_time(training, undisturbed):
    run = training(debug__kill_at_step=7).complete()
    assert run.result() == undisturbed()
    assert [entry["step"] for entry in run.journal("death")] == [7]
    assert run.metrics()["recoveries"] == 1


STEP = "pipeline/train/step.py"


@pytest.fixture
def killed(training):
    """Start a run whose code has a hash, and kill it."""
    run = training(code={STEP: "1"}).start()
    run.wait_for_step(3)
    run.process.kill()
    run.process.wait()
    return run


def test_a_run_whose_code_has_changed_is_refused_and_with_the_old_code_goes_on(
    training, undisturbed, killed
):
    other = training(code={STEP: "2"}).start()
    assert other.end() == 74
    assert f"numbers may come out differently now (code: {STEP})" in other.text()
    assert "continue with train.resume_allow_inexact=true" in other.text()
    run = training(code={STEP: "1"}).complete()
    assert run.journal("recovery")
    assert run.result() == undisturbed()
    assert run.metrics()["inexact"] == []


def test_a_run_with_other_code_goes_on_where_that_is_allowed_and_records_it(
    training, undisturbed, killed
):
    settings = {"resume_allow_inexact": True, "reload_interval_steps": 8}
    run = training(settings=settings, code={STEP: "2"}).complete()
    assert run.metrics()["inexact"] == [f"code: {STEP}"]
    assert run.result()[:3] == undisturbed()[:3]  # only the hash is another, and `inexact` says so


def test_a_stage_without_that_option_starts_afresh_and_says_so(training, undisturbed, killed):
    run = training(settings={"resume": "restart"}, code={STEP: "2"}).complete()
    assert f"starting afresh, because of changes: code: {STEP}" in run.text()
    assert "resuming after step" not in run.text()
    assert run.result() == undisturbed()


NEGATIVE = {"key": "random/key", "moments": "optimizer/", "weights": "model/"}


@pytest.mark.parametrize("what", [*NEGATIVE, "cursor"])
def test_without_a_part_of_the_state_the_bits_differ(training, undisturbed, what, tmp_path):
    """The negative control: the comparison above can fail."""
    run = training(settings={}).start()
    run.wait_for_step(6)
    run.process.kill()
    run.process.wait()
    damage = f"""
import json, shutil
from pathlib import Path
from pipeline.device import mx
from pipeline.train.checkpoints.manifest import write_parts
folder = max(Path({str(run.run)!r}).glob("step-*"))
arrays = mx.load(str(folder / "arrays.safetensors"))
mx.eval(arrays)
for name in arrays:
    if name.startswith({NEGATIVE.get(what, "nothing")!r}):
        arrays[name] = mx.zeros_like(arrays[name])
state = json.loads((folder / "state.json").read_text())
if {what!r} == "cursor":
    state["progress"]["step"] -= 1
step = int(folder.name[5:])
shutil.rmtree(folder)
folder.mkdir()
write_parts(folder, step, arrays, state)
"""
    subprocess.run([sys.executable, "-c", damage], cwd=ROOT, check=True)
    run.complete()
    assert run.journal("recovery")
    assert run.result() != undisturbed()

"""What the machine lends: files of other systems are read as these systems write them."""

import ctypes
import errno
import mmap
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline import machine
from pipeline.errors import DeviceError
from pipeline.machine import Held

MIB = 1 << 20
STATUS = """\
Name:	python
State:	{state}
VmPeak:	  911340 kB
VmHWM:	  350000 kB
VmRSS:	  300000 kB
RssAnon:	  200000 kB
RssFile:	   90000 kB
RssShmem:	   10000 kB
Threads:	4
"""
ZOMBIE = b"Name:\tpython\nState:\tZ (zombie)\nThreads:\t1\n"
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
def test_footprint_follows_what_a_process_holds():
    before = machine.footprint_bytes()
    held = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.write(b"x" * 64 * MIB)
    while_held = machine.footprint_bytes()
    held.close()
    assert while_held - before == pytest.approx(64 * MIB, rel=0.2)
    assert machine.footprint_bytes() - before == pytest.approx(0, abs=16 * MIB)


@linux
def test_footprint_counts_shared_memory_but_no_file(tmp_path):
    (tmp_path / "weights").write_bytes(b"x" * 64 * MIB)
    before = machine.footprint_bytes()
    with (
        (tmp_path / "weights").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        assert sum(mapped[:: mmap.PAGESIZE]) > 0
        assert machine.footprint_bytes() - before < 16 * MIB
    with mmap.mmap(-1, 64 * MIB) as shared:
        shared.write(b"x" * 64 * MIB)
        assert machine.footprint_bytes() - before > 48 * MIB


@linux
def test_footprint_of_another_process_ends_with_it():
    child = subprocess.Popen(["sleep", "60"])
    assert machine.footprint_bytes(child.pid) > 0
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert machine.footprint_bytes(child.pid) == 0  # a zombie
    child.wait()
    assert machine.footprint_bytes(child.pid) == 0


def test_what_a_process_holds_is_read_from_status():
    status = STATUS.format(state="R (running)").encode()
    assert machine.status_held(status) == Held(210_000 * 1024, 350_000 * 1024)
    assert machine.status_held(ZOMBIE) == Held()


def test_an_old_linux_is_refused():
    with pytest.raises(DeviceError, match=r"no RssAnon.*\n.*Linux 4.5"):
        machine.status_held(b"VmRSS:\t  300000 kB\n")


def test_footprint_is_read_from_macos(monkeypatch):
    # a UUID, user and system time, two kinds of wakeups, pageins, wired, resident, footprint; 20
    # numbers on times, children, disk and quality of service; the greatest footprint
    answer = bytes(16) + struct.pack("=29Q", *range(7), 8 * MIB, *range(20), 9 * MIB)

    class System:
        def __init__(self, name):
            assert name is None

        def proc_pid_rusage(self, pid, flavor, buffer):
            ctypes.memmove(buffer, answer, len(answer))
            return 0 if (pid, flavor) == (os.getpid(), 4) else -1

    monkeypatch.setattr(machine.ctypes, "CDLL", System)
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    assert machine.held_by(os.getpid()) == Held(8 * MIB, 9 * MIB)
    assert machine.footprint_bytes() == 8 * MIB
    assert machine.held_by(1) == Held()


# The meter of peaks


SPIKE_BYTES = 256 * MIB
SPIKE = f"""
import mmap, sys, time
for line in sys.stdin:
    held = mmap.mmap(-1, {SPIKE_BYTES}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for _ in range({SPIKE_BYTES // MIB}):
        held.write(b"x" * {MIB})
    time.sleep(0.1)
    held.close()
    print("over", flush=True)
"""


@pytest.fixture
def spiky():
    """Start a process that holds much for 0.1 s, each time that it is sent a line."""
    command = [sys.executable, "-c", SPIKE]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        yield process
        process.stdin.close()


def hold_much(process):
    """Let it hold much, and wait until that is over."""
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "over\n"


@linux
def test_a_spike_of_another_process_is_seen(spiky):
    with machine.PeakMeter() as meter, meter.including(lambda: [spiky.pid]):
        hold_much(spiky)  # so that it has begun
        meter.highest_bytes()
        before = meter.highest_bytes()
        hold_much(spiky)
        assert meter.highest_bytes() - before >= 0.95 * SPIKE_BYTES  # of a moment that is over
        assert meter.highest_bytes() - before < 0.1 * SPIKE_BYTES
        facts = meter.facts()
    assert facts["peak_footprint_bytes"] - before >= 0.95 * SPIKE_BYTES
    assert facts["peak_resident_bytes"] >= facts["peak_footprint_bytes"]
    assert facts["stage_seconds"] > 0.1


@linux
def test_other_processes_count_only_in_their_block(spiky):
    hold_much(spiky)  # so that it has begun
    meter = machine.PeakMeter()
    alone = meter.highest_bytes()
    with meter.including(lambda: [spiky.pid]):
        assert meter.highest_bytes() > alone + MIB
    assert meter.highest_bytes() < alone + MIB


def test_the_thread_of_a_meter_ends_with_its_block():
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), machine.PeakMeter():
        assert threading.active_count() == before + 1
        raise KeyboardInterrupt
    assert threading.active_count() == before


@linux
def test_the_thread_of_a_meter_takes_no_signal():
    blocked = threading.Event()

    def look():
        if threading.current_thread() is not threading.main_thread():
            blocked.signals = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            blocked.set()
        return ()

    with machine.PeakMeter() as meter, meter.including(look):
        assert blocked.wait(10)
    assert {signal.SIGINT, signal.SIGTERM} <= blocked.signals


@linux
def test_a_sample_for_which_no_file_can_be_opened_is_left_out(monkeypatch):
    tried = threading.Semaphore(0)

    def refuse(*arguments):
        tried.release()
        raise OSError(errno.EMFILE, "Too many open files")

    with machine.PeakMeter() as meter:
        peak = meter.peak
        with monkeypatch.context() as changed:
            changed.setattr(machine.os, "open", refuse)
            assert all(tried.acquire(timeout=10) for _ in range(3))
        assert meter.peak.footprint_bytes >= peak.footprint_bytes


@linux
def test_a_sample_takes_less_than_a_tenth_of_a_millisecond():
    def seconds():
        started = time.perf_counter()
        for _ in range(50):
            machine.held_by(os.getpid())
        return (time.perf_counter() - started) / 50

    assert min(seconds() for _ in range(20)) < 1e-4


def test_peaks_of_an_earlier_process_are_taken_over():
    meter = machine.PeakMeter()
    meter.sample()
    resident = meter.peak.peak_resident_bytes
    meter.go_on_from(Held(1 << 50, 0))
    assert meter.peak == Held(1 << 50, resident)
    meter.sample()
    assert meter.peak.footprint_bytes == 1 << 50


MOUNTS_V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
MOUNTS_V1 = """\
23 27 0:22 / /sys rw,relatime - sysfs sysfs rw
35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
"""
MEMBERS_V1 = "9:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"
HYBRID = MOUNTS_V1.format(root="/") + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"


@pytest.mark.parametrize(
    ("controller", "memberships", "mounts", "folders"),
    [
        ("memory", "0::/a.slice/b.scope\n", MOUNTS_V2, ["/a.slice/b.scope", "/a.slice", ""]),
        ("memory", "0::/\n", MOUNTS_V2, [""]),
        ("memory", "0::/../../outside\n", MOUNTS_V2, [""]),
        (
            "memory",
            MEMBERS_V1,
            MOUNTS_V1.format(root="/"),
            ["/memory/docker/abc", "/memory/docker", "/memory"],
        ),
        ("memory", MEMBERS_V1, MOUNTS_V1.format(root="/docker/abc"), ["/memory"]),
        ("cpu", MEMBERS_V1, MOUNTS_V1.format(root="/other"), ["/cpu,cpuacct"]),
        (
            "memory",
            "9:memory:/x\n0::/y\n",
            HYBRID,
            ["/memory/x", "/memory", "/unified/y", "/unified"],
        ),
        ("memory", "", MOUNTS_V2, []),
    ],
)
def test_cgroup_and_its_parents_are_found(controller, memberships, mounts, folders):
    found = list(machine.cgroup_folders(controller, memberships, mounts))
    assert found == [Path(f"/sys/fs/cgroup{folder}") for folder in folders]


@pytest.mark.parametrize(
    ("text", "limit"),
    [("max\n", None), ("8388608\n", 8388608), ("-1\n", None), ("", None), (None, None)],
)
def test_limit_is_a_number_or_absent(tmp_path, text, limit):
    if text is not None:
        (tmp_path / "memory.max").write_text(text)
    assert machine.read_limit(tmp_path / "memory.max") == limit


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.cfs_quota_us": "200000\n", "cpu.cfs_period_us": "50000\n"}, 4),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_cpu_quota_is_read_in_both_versions(tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert machine.cpu_quota(tmp_path) == quota


def test_the_smallest_memory_limit_counts(tmp_path, monkeypatch):
    child, parent = tmp_path / "parent" / "child", tmp_path / "parent"
    child.mkdir(parents=True)
    (child / "memory.max").write_text("max\n")
    (parent / "memory.max").write_text(f"{MIB}\n")
    monkeypatch.setattr(machine, "own_cgroups", lambda controller: [child, parent, tmp_path])
    assert machine.memory_limits()[str(parent / "memory.max")] == MIB
    assert machine.available_memory_bytes() == MIB
    (child / "memory.limit_in_bytes").write_text(f"{MIB // 2}\n")
    assert machine.available_memory_bytes() == MIB // 2


@linux
def test_a_limit_of_the_shell_counts():
    code = "from pipeline.machine import available_memory_bytes as b; print(b())"
    command = f"ulimit -v {2048 * 1024}; exec {sys.executable} -c '{code}'"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 2048 * MIB


@pytest.mark.parametrize(
    ("siblings", "quotas", "cores"),
    [
        ({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, [], 2),
        ({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, [None, 1.5], 1),
        ({0: "0", 1: "1", 2: "2"}, [8.0], 3),
        ({0: "0"}, [0.25], 1),
    ],
)
def test_cores_are_physical_and_within_the_quota(monkeypatch, siblings, quotas, cores):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(siblings), raising=False)
    monkeypatch.setattr(machine, "sibling_cpus", siblings.get)
    monkeypatch.setattr(machine, "own_cgroups", lambda controller: range(len(quotas)))
    monkeypatch.setattr(machine, "cpu_quota", quotas.__getitem__)
    assert machine.allowed_cores() == cores


def test_siblings_are_read_or_the_cpu_stands_alone(tmp_path):
    folder = tmp_path / "cpu3" / "topology"
    folder.mkdir(parents=True)
    (folder / "thread_siblings_list").write_text("3,7\n")
    assert machine.sibling_cpus(3, tmp_path) == "3,7"
    assert machine.sibling_cpus(4, tmp_path) == "4"


def test_a_system_without_proc_has_no_cgroups(tmp_path):
    assert machine.own_cgroups("memory", tmp_path) == []

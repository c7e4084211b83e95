"""The cores and the memory that this process may use, and the memory that a process holds.

Nothing here imports MLX, because the supervisor must not load it to measure its workers.
"""

import contextlib
import ctypes
import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.errors import DeviceError

PROC = Path("/proc")
CPUS = Path("/sys/devices/system/cpu")
KIB = 1024
PR_SET_PDEATHSIG = 1
SAMPLE_SECONDS = 0.02
STATUS_BYTES = 1 << 16
"""More than a `/proc/<pid>/status` has."""
STATUS_SIZES = re.compile(rb"^(VmHWM|VmRSS|RssAnon|RssShmem):\s*(\d+) kB$", re.MULTILINE)
RUSAGE_INFO_V4 = 4
RUSAGE_INFO_BYTES = 512
"""No version of the structure is larger."""
FOOTPRINT_OFFSET = 72
"""Of `ri_phys_footprint` in `struct rusage_info_v4`: a UUID, then seven 64-bit numbers."""
LIFETIME_MAX_OFFSET = 240
"""Of `ri_lifetime_max_phys_footprint`: a UUID, then 28 64-bit numbers."""


def die_with_parent() -> None:
    """Ask the system to kill this process when its parent ends. Only Linux can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass(frozen=True)
class Held:
    """The memory that processes hold, in bytes.

    Attributes:
        footprint_bytes: what the system cannot take back. Pages of mapped files do not count,
            because the system drops them when it needs room.
        peak_resident_bytes: the most that was in memory since they began, by the system's own
            count: on Linux with pages of mapped files, on macOS the greatest footprint.
    """

    footprint_bytes: int = 0
    peak_resident_bytes: int = 0

    def __add__(self, other: "Held") -> "Held":
        return Held(
            self.footprint_bytes + other.footprint_bytes,
            self.peak_resident_bytes + other.peak_resident_bytes,
        )


def footprint_bytes(pid: int | None = None) -> int:
    """Measure the memory of a process that the system cannot take back, in bytes.

    Args:
        pid: the process; None: this one.
    """
    return held_by(pid or os.getpid()).footprint_bytes


def held_by(pid: int) -> Held:
    """Measure the memory of a process; one that has ended holds nothing.

    Raises:
        DeviceError: when the kernel does not report it.
    """
    if sys.platform == "darwin":
        return darwin_held(pid)
    try:
        descriptor = os.open(PROC / str(pid) / "status", os.O_RDONLY)
    except FileNotFoundError:
        return Held()
    try:
        return status_held(os.read(descriptor, STATUS_BYTES))
    except ProcessLookupError:
        return Held()
    finally:
        os.close(descriptor)


def status_held(status: bytes) -> Held:
    """Find what a process holds in its `/proc/<pid>/status`: anonymous and shared memory.

    Raises:
        DeviceError: when the kernel does not report them.
    """
    sizes = {name: int(size) * KIB for name, size in STATUS_SIZES.findall(status)}
    if b"VmRSS" not in sizes:  # it has ended and waits for its parent, or is a thread of the kernel
        return Held()
    if b"RssAnon" not in sizes:
        raise DeviceError(
            "/proc/<pid>/status has no RssAnon, so memory cannot be bounded here.\n"
            "Use Linux 4.5 or newer."
        )
    return Held(sizes[b"RssAnon"] + sizes[b"RssShmem"], sizes[b"VmHWM"])


def darwin_held(pid: int) -> Held:
    """Ask macOS for the physical footprint of a process, and for the greatest that it had."""
    answer = ctypes.create_string_buffer(RUSAGE_INFO_BYTES)
    if ctypes.CDLL(None).proc_pid_rusage(pid, RUSAGE_INFO_V4, answer):
        return Held()
    offsets = FOOTPRINT_OFFSET, LIFETIME_MAX_OFFSET
    return Held(*(int.from_bytes(answer.raw[at : at + 8], sys.byteorder) for at in offsets))


class PeakMeter:
    """Measures every 20 ms what this process and others hold, and remembers the most.

    As a context manager, it does so in a thread while the block runs. What is held for less than
    20 ms may be missed; the system's own count of resident memory misses nothing.

    Attributes:
        last: what was held at the newest sample.
        peak: the greatest footprint, and the greatest sum of the peaks of resident memory.
    """

    def __init__(self) -> None:
        self.last = self.peak = Held()
        self._others: Callable[[], Iterable[int]] = tuple
        self._highest_bytes = 0
        self._began = time.monotonic()
        self._lock, self._is_over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._sample_loop, daemon=True)

    def __enter__(self) -> "PeakMeter":
        self.sample()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _sample_loop(self) -> None:
        """Measure until the block is over; a sample that fails for want of a file is left out."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # the main thread's
        while not self._is_over.wait(SAMPLE_SECONDS):
            with contextlib.suppress(OSError):
                self.sample()

    @contextlib.contextmanager
    def including(self, others: Callable[[], Iterable[int]]) -> Iterator[None]:
        """Measure other processes too, in this block.

        Args:
            others: returns their ids; it is called for each sample.
        """
        self._others = others
        try:
            yield
        finally:
            self._others = tuple

    def sample(self) -> None:
        """Measure once.

        Raises:
            DeviceError: when the kernel does not report what a process holds.
        """
        held = sum(map(held_by, (os.getpid(), *self._others())), Held())
        with self._lock:
            self.last = held
            self._highest_bytes = max(self._highest_bytes, held.footprint_bytes)
            self._remember(held)

    def _remember(self, held: Held) -> None:
        """Raise the peaks to what was held."""
        self.peak = Held(
            max(self.peak.footprint_bytes, held.footprint_bytes),
            max(self.peak.peak_resident_bytes, held.peak_resident_bytes),
        )

    def highest_bytes(self) -> int:
        """Measure once more; return the greatest footprint since the last call of this method."""
        self.sample()
        with self._lock:
            highest, self._highest_bytes = self._highest_bytes, 0
        return highest

    def go_on_from(self, earlier: Held) -> None:
        """Take over the peaks of an earlier process that did the same work."""
        with self._lock:
            self._remember(earlier)

    def facts(self) -> dict[str, float | int]:
        """Return the metrics of a stage: its time and its peaks so far."""
        self.sample()
        return {
            "stage_seconds": time.monotonic() - self._began,
            "peak_footprint_bytes": self.peak.footprint_bytes,
            "peak_resident_bytes": self.peak.peak_resident_bytes,
        }


def available_memory_bytes() -> int:
    """Return how much memory this process may use, the smallest of its limits, in bytes."""
    return min(memory_limits().values())


def memory_limits() -> dict[str, int]:
    """Return the limits on the memory of this process in bytes, by their origin."""
    limits = {"machine": psutil.virtual_memory().total}
    for folder in own_cgroups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = read_limit(folder / name)
            if limit is not None:
                limits[str(folder / name)] = limit
    for option, kind in (("-d", resource.RLIMIT_DATA), ("-v", resource.RLIMIT_AS)):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            limits[f"ulimit {option}"] = limit
    return limits


def read_limit(path: Path) -> int | None:
    """Read a number from a file of a cgroup; None where there is no such file or no limit."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def allowed_cores() -> int:
    """Count the physical cores that this process may use, by its affinity and its cgroups."""
    if not hasattr(os, "sched_getaffinity"):
        return psutil.cpu_count(logical=False) or 1
    cores = {sibling_cpus(cpu) for cpu in os.sched_getaffinity(0)}
    quotas = [quota for folder in own_cgroups("cpu") if (quota := cpu_quota(folder))]
    return max(1, int(min([len(cores), *quotas])))


def sibling_cpus(cpu: int, cpus: Path = CPUS) -> str:
    """Name the physical core of a CPU by the CPUs that share it, or by its number where unknown."""
    try:
        return (cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def cpu_quota(folder: Path) -> float | None:
    """Read how many CPUs a cgroup may use at full time; None where it has no limit."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except OSError:
        quota = str(read_limit(folder / "cpu.cfs_quota_us"))
        period = str(read_limit(folder / "cpu.cfs_period_us"))
    if quota.isdecimal() and period.isdecimal():
        return int(quota) / int(period)
    return None


def own_cgroups(controller: str, proc: Path = PROC) -> list[Path]:
    """List the folders of this process's cgroup and its parents, for one resource.

    Args:
        controller: `memory` or `cpu`.
        proc: the mount point of the process file system.
    """
    try:
        memberships = (proc / "self" / "cgroup").read_text()
        mounts = (proc / "self" / "mountinfo").read_text()
    except OSError:  # not Linux
        return []
    return list(cgroup_folders(controller, memberships, mounts))


def cgroup_folders(controller: str, memberships: str, mounts: str) -> Iterator[Path]:
    """Yield the folders of a cgroup and its parents, in version 1, 2, or both.

    Inside a container the path of the cgroup may be a path of the host, which is not visible there.
    The mount point is then the cgroup of the container.

    Args:
        controller: `memory` or `cpu`.
        memberships: the text of `/proc/<pid>/cgroup`.
        mounts: the text of `/proc/<pid>/mountinfo`.
    """
    paths = {}
    for line in memberships.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or controller in controllers.split(","):
            paths["cgroup2" if number == "0" else "cgroup"] = Path(path)
    for line in mounts.splitlines():
        left, right = line.split(" - ", 1)
        root, mount_point = map(Path, left.split()[3:5])
        kind, _, options = right.split(" ", 2)
        if kind in paths and (kind == "cgroup2" or controller in options.split(",")):
            yield from folders_up(paths[kind], root, mount_point)


def folders_up(path: Path, root: Path, mount_point: Path) -> Iterator[Path]:
    """Yield the folder of a cgroup and its parents, up to the mount point of the hierarchy."""
    inside = path.is_relative_to(root) and ".." not in path.parts
    folder = mount_point / path.relative_to(root) if inside else mount_point
    while folder != mount_point:
        yield folder
        folder = folder.parent
    yield mount_point

"""The cores and the memory that this process may use, and the memory that a process holds.

Nothing here imports MLX, because the supervisor must not load it to measure its workers.
"""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from pipeline.errors import DeviceError

PROC = Path("/proc")
CPUS = Path("/sys/devices/system/cpu")
KIB = 1024
PR_SET_PDEATHSIG = 1
RUSAGE_INFO_V2 = 2
RUSAGE_INFO_BYTES = 512
"""No version of the structure is larger."""
FOOTPRINT_OFFSET = 72
"""Of `ri_phys_footprint` in `struct rusage_info_v2`: a UUID, then seven 64-bit numbers."""


def die_with_parent() -> None:
    """Ask the system to kill this process when its parent ends. Only Linux can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def footprint_bytes(pid: int | None = None) -> int:
    """Measure the memory of a process that the system cannot take back, in bytes.

    Pages of mapped files do not count, because the system drops them when it needs room. A process
    that has ended holds nothing.

    Args:
        pid: the process; None: this one.
    """
    if sys.platform == "darwin":
        return darwin_footprint(pid or os.getpid())
    try:
        return status_footprint((PROC / str(pid or "self") / "status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0


def status_footprint(status: str) -> int:
    """Add anonymous and shared memory of a `/proc/<pid>/status`, in bytes.

    Raises:
        DeviceError: when the kernel does not report them.
    """
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if "VmRSS" not in fields:  # it has ended and waits for its parent, or is a thread of the kernel
        return 0
    if "RssAnon" not in fields:
        raise DeviceError(
            "/proc/<pid>/status has no RssAnon, so memory cannot be bounded here.\n"
            "Use Linux 4.5 or newer."
        )
    return sum(int(fields[name].split()[0]) * KIB for name in ("RssAnon", "RssShmem"))


def darwin_footprint(pid: int) -> int:
    """Ask macOS for the physical footprint of a process, in bytes."""
    answer = ctypes.create_string_buffer(RUSAGE_INFO_BYTES)
    gone = ctypes.CDLL(None).proc_pid_rusage(pid, RUSAGE_INFO_V2, answer)
    field = answer.raw[FOOTPRINT_OFFSET : FOOTPRINT_OFFSET + 8]
    return 0 if gone else int.from_bytes(field, sys.byteorder)


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

"""How much memory a run may hold, how fast it grows, and when a new process is due.

Nothing here imports MLX: the supervisor uses it too. GB are 10^9 bytes.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

from pipeline.errors import TrainingError
from pipeline.machine import available_memory_bytes

GB, MB = 10**9, 10**6
AUTO_SHARE = 0.8
MAX_AUTO_BYTES, MIN_AUTO_BYTES = 120 * GB, 1 * GB
MARGIN = 0.2
"""Share of the way to the bound that is kept free in forecasts."""
WARM_UP_STEPS = 5
"""A new process fills its caches first, which is not a leak."""
WINDOW_STEPS = 64
MIN_SAMPLES = 8
SETTLED_STEPS = 2 * WINDOW_STEPS
"""A process of fewer steps cannot tell a leak from its allocator, which is still settling."""
LEAK_BYTES_PER_STEP = 10**5
"""Slopes below are noise: 10,000 steps of them make 1 GB."""


def memory_limit_bytes(limit_gb: float | None, available: int | None = None) -> int:
    """Return the footprint that a run may not pass, in bytes.

    Args:
        limit_gb: `train.memory_limit_gb`; None takes 0.8 of what the machine or its cgroup
            grants, at most 120 GB and at least 1 GB.
        available: what is granted, in bytes; None asks the system.
    """
    if limit_gb is not None:
        return int(limit_gb * GB)
    granted = available_memory_bytes() if available is None else available
    return int(min(max(AUTO_SHARE * granted, MIN_AUTO_BYTES), MAX_AUTO_BYTES))


def robust_slope(values: np.ndarray) -> float:
    """Return the median of the slopes of all pairs of points, per step (Theil 1950, Sen 1968).

    Up to 29 % of the points may be anything without moving it much.
    """
    first, second = np.triu_indices(len(values), k=1)
    return float(np.median((values[second] - values[first]) / (second - first)))


class LeakMeter:
    """Measures how fast the footprint of one process grows: lately, and since it has settled.

    A bounded number of samples is kept, evenly spaced over the life of the process.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._window: deque[int] = deque(maxlen=WINDOW_STEPS)
        self._life, self._stride = list[int](), 1

    def add(self, footprint_bytes: int) -> None:
        """Add the footprint after one more step."""
        self._seen += 1
        if self._seen <= WARM_UP_STEPS:
            return
        self._window.append(footprint_bytes)
        if (self._seen - WARM_UP_STEPS - 1) % self._stride == 0:
            self._life.append(footprint_bytes)
        if len(self._life) > 2 * WINDOW_STEPS:
            self._life, self._stride = self._life[::2], 2 * self._stride

    @property
    def bytes_per_step(self) -> float:
        """The robust slope over the window; 0 while there are too few steps to tell."""
        if len(self._window) < MIN_SAMPLES:
            return 0.0
        return robust_slope(np.array(self._window, dtype=np.float64))

    @property
    def settled_bytes_per_step(self) -> float | None:
        """The robust slope over the newer half of the process; None where that is too short.

        Allocators take some 100 steps to settle, and ups and downs around validations are noise.
        """
        if self._seen < SETTLED_STEPS:
            return None
        newer = self._life[len(self._life) // 2 :]
        return robust_slope(np.array(newer, dtype=np.float64)) / self._stride


@dataclass(frozen=True)
class Forecast:
    """A forecast of growing memory.

    Attributes:
        bytes_per_step: how fast it grows.
        steps_left: until the bound is reached.
        safe_steps: how many a process can make from its start, with a margin of 20 %.
    """

    bytes_per_step: float
    steps_left: int
    safe_steps: int


class MemoryGuard:
    """Decides after each step of one process whether the next one may still run in it."""

    def __init__(self, limit_bytes: int, threshold_bytes: int | None) -> None:
        """Set the bounds.

        Args:
            limit_bytes: what may never be passed.
            threshold_bytes: `train.reload_memory_threshold_gb`; None leaves only the limit.
        """
        self.limit_bytes, self.threshold_bytes = limit_bytes, threshold_bytes
        self.meter = LeakMeter()
        self._first = 0
        self._steps = 0
        self._last = 0
        self._warnings = 0

    @property
    def bound_bytes(self) -> int:
        """The footprint above which a new process takes over."""
        wanted = self.limit_bytes if self.threshold_bytes is None else self.threshold_bytes
        return min(wanted, self.limit_bytes)

    def reload_is_due(self, footprint_bytes: int, spike_bytes: int) -> bool:
        """Add the measurements of a step; return whether a new process must do the next one.

        It must where this one would pass the bound if it kept growing at its rate.

        Args:
            footprint_bytes: what is held now that the step is over.
            spike_bytes: what was held beyond that during the step.

        Raises:
            TrainingError: when a new process already holds too much, so reloading cannot help.
        """
        growth = footprint_bytes - self._last
        self._steps += 1
        self._first, self._last = self._first or footprint_bytes, footprint_bytes
        self.meter.add(footprint_bytes)
        held = footprint_bytes + spike_bytes
        ahead = self.meter.bytes_per_step or (growth if self._steps > WARM_UP_STEPS else 0)
        if held + max(0, ahead) <= self.bound_bytes:
            return False
        if self._steps == 1:
            raise TrainingError(self.hopeless_message(held))
        return True

    def hopeless_message(self, held: int) -> str:
        """Word the refusal of a bound that the first step of a new process exceeds."""
        is_limit = self.bound_bytes == self.limit_bytes
        name = "train.memory_limit_gb" if is_limit else "train.reload_memory_threshold_gb"
        return (
            f"{name}={self.bound_bytes / GB:.3g}: a new process holds {held / GB:.3f} GB after its "
            "first step, so reloading cannot help.\n"
            f"Give at least {1.2 * held / GB:.2f}, or make steps smaller (more "
            "train.grad_accumulation_steps, train.grad_checkpoint=true, shorter data.max_seq_len)."
        )

    def forecast(self) -> Forecast | None:
        """Forecast memory; None while it does not grow."""
        slope = self.meter.bytes_per_step
        if slope < LEAK_BYTES_PER_STEP:
            return None
        left = int(max(0, self.bound_bytes - self._last) / slope)
        safe = int((1 - MARGIN) * max(0, self.bound_bytes - self._first) / slope)
        return Forecast(slope, left, safe)

    def warning(self, step: int, num_steps: int) -> str | None:
        """Word the forecast where the end will not be reached without a reload; else None.

        The warning comes once when that is first seen, and once more within the margin of 20 %.
        """
        forecast = self.forecast()
        if forecast is None or forecast.steps_left >= num_steps - step:
            return None
        is_near = forecast.steps_left <= MARGIN * (forecast.safe_steps / (1 - MARGIN))
        if self._warnings >= 1 + is_near:
            return None
        self._warnings = 1 + is_near
        return (
            f"memory grows by {forecast.bytes_per_step / MB:.1f} MB a step: reload in about "
            f"{forecast.steps_left} steps, before {self.bound_bytes / GB:.2f} GB (safe steps "
            f"without reload: {forecast.safe_steps}, planned {num_steps})"
        )

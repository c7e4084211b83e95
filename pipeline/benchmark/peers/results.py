"""The figures by part, program and round, and the ratios that are computed from them."""

import itertools
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from pipeline.benchmark.peers.child import NotMeasured
from pipeline.benchmark.peers.programs import (
    BFLOAT16,
    FLOAT32,
    INSTALLED,
    MLX_LM,
    OURS,
    UNCACHED,
)

COLUMNS = ("part", "figure", "program", "round", "value")


@dataclass(frozen=True)
class Ratio:
    """A quotient of medians over the rounds, and the range of the quotients of single rounds."""

    value: float
    low: float
    high: float

    def __mul__(self, other: "Ratio") -> "Ratio":
        return Ratio(self.value * other.value, self.low * other.low, self.high * other.high)


@dataclass
class Results:
    """The figures of a comparison.

    Attributes:
        values: of each round, by part, figure and program.
        reasons: why figures are missing, by part and program; "" stands for all programs.
    """

    values: dict[tuple[str, str, str], dict[int, float]] = field(default_factory=dict)
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, part: str, figure: str, program: str, number: int, value: float | int) -> None:
        """Record a figure of a round."""
        self.values.setdefault((part, figure, program), {})[number] = float(value)

    def rounds(self, part: str, figure: str, program: str) -> dict[int, float]:
        """Return the values of a figure by round.

        Raises:
            NotMeasured: when there is none, with the reason.
        """
        found = self.values.get((part, figure, program))
        if found:
            return found
        reasons = [self.reasons.get((part, name)) for name in (program, "")]
        reason = next(filter(None, reasons), f"{part} has no {figure} of {program}")
        raise NotMeasured(reason)

    def rows(self) -> Iterable[tuple[str, str, str, int, float]]:
        """Yield every figure as a row of `plots/peers.csv`."""
        for (part, figure, program), rounds in self.values.items():
            for number, value in rounds.items():
                yield part, figure, program, number, value

    def spreads(self) -> dict[str, Any]:
        """Return median, smallest and largest value of every figure, and the number of rounds."""
        found: dict[str, Any] = {}
        for (part, figure, program), rounds in self.values.items():
            entry = found.setdefault(part, {}).setdefault(figure, {})
            values = rounds.values()
            extremes = {"min": min(values), "max": max(values), "n": len(values)}
            entry[program] = {"median": statistics.median(values), **extremes}
        return found


def quotient(above: dict[int, float], below: dict[int, float]) -> Ratio:
    """Divide medians. The range is that of rounds that both have, else that of the extremes."""
    value = statistics.median(above.values()) / statistics.median(below.values())
    both = above.keys() & below.keys()
    pairs = [above[number] / below[number] for number in both] or [
        min(above.values()) / max(below.values()),
        max(above.values()) / min(below.values()),
    ]
    return Ratio(value, min(pairs), max(pairs))


def seconds_to_loss(curve: list[tuple[float, float]], target: float) -> float:
    """Find when a falling curve reaches a loss, by linear interpolation between two points.

    Args:
        curve: seconds and losses in nats, in order of time.
        target: the loss to reach, in nats.

    Raises:
        NotMeasured: when the curve never reaches it, or starts below it.
    """
    if curve[0][1] <= target:
        raise NotMeasured(f"a loss of {target:.4f} is no lower than that at the beginning")
    for (start, before), (end, after) in itertools.pairwise(curve):
        if after <= target < before:
            return start + (end - start) * (before - target) / (before - after)
    raise NotMeasured(f"a loss of {target:.4f} is not reached: the last is {curve[-1][1]:.4f}")


def quotient_of(
    above: tuple[str, str, str], below: tuple[str, str, str]
) -> Callable[[Results], Ratio]:
    """Return what divides two figures, each named by part, figure and program."""
    return lambda results: quotient(results.rounds(*above), results.rounds(*below))


def ratio(part: str, figure: str, above: str, below: str) -> Callable[[Results], Ratio]:
    """Return what divides a figure of one program by that of another, in one part."""
    return quotient_of((part, figure, above), (part, figure, below))


def share_of_flop_ratio(part: str, figure: str) -> Callable[[Results], Ratio]:
    """Return what divides the speed-up by a cache by the share of operations that it saves.

    (cached rate / uncached rate) / (passes / cached passes): a step without a cache uses each
    weight once, and those from the first trained block on once or twice more; a step with a cache
    uses only the latter. For LoRA on the last share f of the blocks (head counted among the blocks)
    that is (1 + f) / 2f; for `head` mode (2 P_blocks + 6 P_head) / 6 P_head.
    """

    def share(results: Results) -> Ratio:
        gain = ratio(part, figure, OURS, UNCACHED)(results)
        flops = ratio(part, "passes", UNCACHED, OURS)(results)
        return Ratio(gain.value / flops.value, gain.low / flops.high, gain.high / flops.low)

    return share


def as_installed(results: Results) -> Ratio:
    """Estimate the speed-up with the BLAS of MLX's wheel, where the whole run would take hours.

    The number of steps to the loss is the same, so the rates of a few steps are compared.
    """
    fast, slow = (*RATE, MLX_LM), ("as_installed", "targets_per_second", INSTALLED)
    return RATIOS["speedup_vs_mlx_lm"](results) * quotient_of(fast, slow)(results)


RATE = "all_blocks", "targets_per_second"
RATIOS: dict[str, Callable[[Results], Ratio]] = {
    "speedup_vs_mlx_lm": ratio("all_blocks", "seconds_to_loss", MLX_LM, OURS),
    "speedup_vs_mlx_lm_as_installed": as_installed,
    "speedup_vs_torch_peft": quotient_of(
        (*RATE, OURS), ("torch_peft", "targets_per_second", FLOAT32)
    ),
    "speedup_vs_torch_peft_bfloat16": quotient_of(
        (*RATE, OURS), ("torch_peft", "targets_per_second", BFLOAT16)
    ),
    "speedup_last_quarter_vs_mlx_lm": ratio("last_quarter", "targets_per_second", OURS, MLX_LM),
    "prefix_cache_share_of_flop_ratio": share_of_flop_ratio("last_quarter", "targets_per_second"),
    "head_mode_share_of_flop_ratio": share_of_flop_ratio("head", "gradient_targets_per_second"),
    "large_vocab_peak_memory_vs_mlx_lm": ratio("large_vocabulary", "peak_bytes", OURS, MLX_LM),
    "peak_memory_vs_floor": quotient_of(
        ("large_vocabulary", "peak_bytes", OURS), ("large_vocabulary", "floor_bytes", OURS)
    ),
    "sweep_cost_with_prefix_cache": ratio("sweep", "seconds", OURS, UNCACHED),
    "roofline_share": quotient_of(
        (*RATE, OURS), ("all_blocks", "roofline_targets_per_second", OURS)
    ),
    "checkpoint_write_rate_vs_dd": ratio("surroundings", "write_bytes_per_second", OURS, "dd"),
}
"""The metrics of the comparison; docs/peers.md says what each one means."""


def summary(results: Results) -> dict[str, Any]:
    """Return the metrics of the comparison.

    Each ratio has a value and a range, or is null and has a reason under `not_measured`, which also
    lists parts that have not ended. `measured` holds the figures themselves.
    """
    values: dict[str, Any] = {}
    ranges: dict[str, Any] = {}
    missing = {part: reason for (part, name), reason in results.reasons.items() if not name}
    for name, divide in RATIOS.items():
        try:
            found = divide(results)
        except NotMeasured as reason:
            values[name], missing[name] = None, str(reason)
        else:
            values[name] = found.value
            ranges[name] = {"min": found.low, "max": found.high}
    return {**values, "ranges": ranges, "not_measured": missing, "measured": results.spreads()}

"""The optimizer of a run: one learning rate, and a rule for each tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from pipeline.device import mx, optimizers, tree_map_with_path
from pipeline.errors import ConfigError, report_problems
from pipeline.model.network.tree import named_arrays
from pipeline.optim import update_rules
from pipeline.optim.rounding import RandomRounding
from pipeline.optim.schedules import RateSettings, make_schedule

USUAL_PATTERNS = ("*norm*", "*bias")
"""Patterns of `optim.no_decay` that may match nothing: an adapter trains no norm and no bias."""
EXACT = "float32"
"""The name of what is remembered of a weight of 16 bits: the weight before it was rounded."""


@dataclass(frozen=True)
class OptimSettings:
    """The `optim` section; what an optimizer has no key for keeps its default, and is not read.

    Defaults are AdamW's, for runs that have no such section.
    """

    learning_rate: float
    weight_decay: float = 0.0
    warmup_fraction: float = 0.0
    final_fraction: float | None = 0.0
    name: str = "adamw"
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    momentum: float = 0.0
    no_decay: tuple[str, ...] = ()
    schedule: str = "cosine"
    decay_fraction: float | None = None
    float32_copy: bool = True

    @property
    def rate(self) -> RateSettings:
        """What of it concerns the learning rate."""
        return RateSettings(
            self.schedule,
            self.learning_rate,
            self.warmup_fraction,
            self.final_fraction,
            self.decay_fraction,
        )


Maker = Callable[[OptimSettings, float], optimizers.Optimizer]
"""Makes the rule of a group of tensors, with this weight decay."""


RULES: dict[str, Maker] = {
    "adamw": lambda its, decay: update_rules.AdamW(
        its.learning_rate, [its.beta1, its.beta2], its.eps, weight_decay=decay
    ),
    "adam": lambda its, _: update_rules.Adam(its.learning_rate, [its.beta1, its.beta2], its.eps),
    "sgd": lambda its, decay: update_rules.Sgd(its.learning_rate, its.momentum, decay),
    "lion": lambda its, decay: optimizers.Lion(its.learning_rate, [its.beta1, its.beta2], decay),
    "muon": lambda its, decay: update_rules.Muon(its.learning_rate, its.momentum, decay),
    "adafactor": lambda its, decay: update_rules.Adafactor(its.learning_rate, its.eps, decay),
}
"""The update rules by name; the keys of each are those of its dataclass in config/optimizers.py."""
LEAVES_OTHERS_TO = {"muon": "adamw"}
"""Rules for the matrices of blocks only, and the rule that updates everything else."""


class GroupedOptimizer(optimizers.Optimizer):
    """Updates each tensor by its rule, all at the learning rate of one schedule.

    Everything is computed and kept in float32, also for weights of 16 bits: there 0.999 is
    1, and a second moment would never fade. The weights themselves have a float32 copy, which is
    what is updated, and are rounded from it at random. To the nearest number most of them would
    stay where they are: those of the base are numbers of 16 bits, and updates are much smaller than
    the distance to the next one. Without the copy, updates are right in the mean only.
    """

    def __init__(
        self,
        schedule: Callable[[int], float],
        choose_rules: Callable[[dict[str, mx.array]], dict[str, optimizers.Optimizer]],
        rounding: RandomRounding,
        float32_copy: bool,
    ) -> None:
        """Start with no tensors.

        Args:
            schedule: returns the learning rate after so many updates, in float64.
            choose_rules: returns the rule of each tensor by name.
            rounding: of weights of 16 bits.
            float32_copy: whether a copy of them is kept that is not rounded.
        """
        super().__init__()
        self.schedule, self.choose_rules = schedule, choose_rules
        self.rounding, self.float32_copy = rounding, float32_copy
        self.learning_rate = schedule(0)
        self.rules: dict[str, optimizers.Optimizer] = {}

    @property
    def state(self) -> dict[str, Any]:
        """Step, learning rate, and by the name of each tensor what its rule remembers."""
        return self._state

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._state = {}
        for name, value in named_arrays(state).items():
            tensor, _, kind = name.rpartition(".")
            place = self._state.setdefault(tensor, {}) if tensor else self._state
            place[kind] = value

    def init(self, parameters: dict[str, Any]) -> None:
        """Choose the rules, and start what they remember where it is not there yet.

        Raises:
            ConfigError: when a pattern of the settings matches no tensor.
        """
        arrays = named_arrays(parameters)
        self.rules = self.choose_rules(arrays)
        for name, array in arrays.items():
            if name not in self._state:
                exact, self._state[name] = array.astype(mx.float32), {}
                self.rules[name].init_single(exact, self._state[name])
                if self.float32_copy and array.dtype != mx.float32:
                    self._state[name][EXACT] = exact

    def apply_gradients(self, gradients: dict[str, Any], parameters: dict[str, Any]) -> Any:  # noqa: ANN401
        """Return the new weights for a tree of gradients."""
        if not self.rules:
            given = named_arrays(parameters)
            self.init({name: given[name] for name in named_arrays(gradients)})
        self.learning_rate = self.schedule(int(self.step))
        self._state["step"] = self.step + 1

        def updated(name: str, gradient: mx.array, parameter: mx.array) -> mx.array:
            remembered = self._state.setdefault(name, {})
            return self.apply_named(
                name, gradient, parameter, remembered, self.learning_rate, self.step
            )

        return tree_map_with_path(updated, gradients, parameters)

    def apply_named(
        self,
        name: str,
        gradient: mx.array,
        parameter: mx.array,
        remembered: dict[str, mx.array],
        learning_rate: mx.array,
        step: mx.array,
    ) -> mx.array:
        """Return the new weights of one tensor; its entry in the state is updated in place."""
        rule = self.rules[name]
        rule.state = {"learning_rate": learning_rate, "step": step}
        exact = remembered.get(EXACT, parameter).astype(mx.float32)
        new = rule.apply_single(gradient.astype(mx.float32), exact, remembered)
        if parameter.dtype == mx.float32:
            return new
        if EXACT in remembered:
            remembered[EXACT] = new
        return self.rounding(new, parameter.dtype, name, step)


def make_optimizer(settings: OptimSettings, num_steps: int, seed: int = 0) -> GroupedOptimizer:
    """Make the optimizer of a run.

    Args:
        settings: the `optim` section.
        num_steps: updates of the whole run.
        seed: of the rounding of weights of 16 bits.
    """
    return GroupedOptimizer(
        make_schedule(settings.rate, num_steps),
        lambda arrays: choose_rules(settings, arrays),
        RandomRounding(seed),
        settings.float32_copy,
    )


def choose_rules(
    settings: OptimSettings, arrays: dict[str, mx.array]
) -> dict[str, optimizers.Optimizer]:
    """Choose how each tensor is updated: what is alike shares a rule.

    Muon takes the matrices of the blocks; embeddings, head, norms and biases go by AdamW.

    Raises:
        ConfigError: when a pattern of `optim.no_decay` matches no tensor.
    """
    patterns, other = settings.no_decay, LEAVES_OTHERS_TO.get(settings.name)
    refuse_idle(patterns, list(arrays))
    made: dict[tuple[str, bool], optimizers.Optimizer] = {}
    rules = {}
    for name, array in arrays.items():
        rule = settings.name if other is None or is_block_matrix(name, array) else other
        decays = not any(fnmatchcase(name, pattern) for pattern in patterns)
        group = rule, decays
        if group not in made:
            made[group] = RULES[rule](settings, settings.weight_decay if decays else 0.0)
        rules[name] = made[group]
    return rules


def refuse_idle(patterns: tuple[str, ...], names: list[str]) -> None:
    """Refuse patterns that match nothing, but for the usual ones.

    Raises:
        ConfigError: with each of them.
    """
    idle = [
        f"{pattern}: matches no trained tensor"
        for pattern in patterns
        if pattern not in USUAL_PATTERNS and not any(fnmatchcase(name, pattern) for name in names)
    ]
    remedy = f"The tensors have names such as {', '.join(sorted(names)[:3])}."
    report_problems(ConfigError, f"optim.no_decay={list(patterns)}:", idle, remedy)


def is_block_matrix(name: str, array: mx.array) -> bool:
    """Whether a tensor is a matrix of a block; the name of a block contains its number."""
    return array.ndim == 2 and any(part.isdecimal() for part in name.split("."))

"""How a parameter is declared: its meaning, unit, range and choices; `conf/` has its value."""

import dataclasses
from typing import Any

from omegaconf import MISSING


def key(
    help: str,
    *,
    unit: str = "",
    minimum: int | float | None = None,
    maximum: int | float | None = None,
    choices: tuple[str | int, ...] = (),
    words: tuple[str, ...] = (),
) -> Any:  # noqa: ANN401
    """Declare one parameter; its value comes from `conf/`.

    Args:
        help: what it does.
        unit: of a number.
        minimum: of a number.
        maximum: of a number.
        choices: all values that it may have.
        words: texts that may stand in the place of a number.
    """
    facts = {
        "help": help,
        "unit": unit,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "words": words,
    }
    return dataclasses.field(default=MISSING, metadata=facts)


def section(kind: type) -> Any:  # noqa: ANN401
    """Declare a group of parameters."""
    return dataclasses.field(default_factory=kind)


MOST = 10**9
"""Upper bound of steps and documents; a run of more would not end, so it is a typing error."""
LONGEST = 10**8
"""Upper bound of the tokens of a sequence."""
LARGEST_BETA = 0.999999
"""With more, a moving average in float32 would not change any more."""

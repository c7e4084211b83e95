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
) -> Any:  # noqa: ANN401
    """Declare one parameter; its value comes from `conf/`."""
    facts = {"help": help, "unit": unit, "minimum": minimum, "maximum": maximum, "choices": choices}
    return dataclasses.field(default=MISSING, metadata=facts)


def section(kind: type) -> Any:  # noqa: ANN401
    """Declare a group of parameters."""
    return dataclasses.field(default_factory=kind)


MOST = 10**9
"""Of steps and documents: more would not end, and is a slip of the keyboard."""
LONGEST = 10**8
"""Tokens of a sequence."""
LARGEST_BETA = 0.999999
"""Nearer to 1, an average would not forget within float32."""

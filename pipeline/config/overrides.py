"""Overrides of a command line, and how they are put on top of those of an earlier run."""

from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from pipeline.config.groups import groups
from pipeline.config.keys import inside
from pipeline.errors import ConfigError

FILE = ".hydra/overrides.yaml"
INPUTS = "inputs"


def overrides_in(arguments: list[str]) -> list[str]:
    """List the arguments that set a parameter or choose an option, without those of Hydra."""
    found = [item for item in arguments if "=" in item and not item.startswith("-")]
    return [item for item in found if not inside(key_in(item), ["hydra"])]


def key_in(override: str) -> str:
    """Name the key or the group that an override sets, as a key."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0].replace("/", ".")


def is_sweep(override: str) -> bool:
    """Whether an override has several values; what cannot be parsed has none, and Hydra reports."""
    try:
        (parsed,) = OverridesParser.create().parse_overrides([override])
    except HydraException:
        return False
    return parsed.is_sweep_override()


def without(overrides: list[str], *keys: str) -> list[str]:
    """Leave out what sets some keys."""
    return [item for item in overrides if key_in(item) not in keys]


def on_top(earlier: list[str], later: list[str]) -> list[str]:
    """Put overrides on top of earlier ones.

    An earlier one is left out where its key is set again, or another option of its group is
    chosen, which may not have its key.
    """
    keys = [key_in(item) for item in later]
    chosen = [key for key in keys if key.replace(".", "/") in groups()]
    kept = [item for item in earlier if key_in(item) not in keys]
    return [*(item for item in kept if not inside(key_in(item), chosen)), *later]


def recorded_overrides(run: Path) -> list[str]:
    """Read the overrides that a run was started with; none where Hydra has not recorded them.

    Raises:
        ConfigError: when the record is damaged.
    """
    try:
        found = yaml.safe_load((run / FILE).read_text(encoding="utf-8")) or []
        return without(overrides_in(list(map(str, found))), INPUTS)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeError, yaml.YAMLError, TypeError) as error:
        raise ConfigError(
            f"inputs={run}: {run / FILE} is damaged, so it is not known with which parameters "
            f"this run was made.\nRun its stage again, or delete {FILE} there: then only the "
            "parameters that you set here count."
        ) from error

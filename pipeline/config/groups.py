"""The groups of conf/: what may be chosen in each, and which keys a choice has."""

import functools
from collections.abc import Collection, Iterator
from typing import Any

import yaml

from pipeline.config.keys import concerns, inside, own_names
from pipeline.config.options import OPTIONS
from pipeline.errors import ConfigError
from pipeline.files import ROOT

CONF = ROOT / "conf"
WITHOUT_KEYS = ("experiment", "hardware", "local")
"""Groups whose files set keys of any section."""


def groups() -> list[str]:
    """List the groups of conf/."""
    return sorted(path.relative_to(CONF).as_posix() for path in CONF.rglob("*/"))


def options(group: str) -> list[str]:
    """List what may be chosen in a group of conf/."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def default_option(group: str) -> str | None:
    """Read what conf/config.yaml or conf/by_hand.yaml chooses in a group; None if nothing."""
    texts = [(CONF / f"{name}.yaml").read_text(encoding="utf-8") for name in ("config", "by_hand")]
    defaults = [entry for text in texts for entry in yaml.safe_load(text)["defaults"]]
    return next(
        (entry[group] for entry in defaults if isinstance(entry, dict) and group in entry), None
    )


def contents(group: str, option: str) -> dict[str, Any]:
    """Read an option of a group of conf/."""
    return yaml.safe_load((CONF / group / f"{option}.yaml").read_text(encoding="utf-8")) or {}


@functools.cache
def schema_of(group: str, option: str) -> type:
    """Find the dataclass that an option extends, itself or through the option that it extends.

    Raises:
        ConfigError: when it extends none.
    """
    for entry in reversed(contents(group, option).get("defaults", [])):
        name = entry.partition("@")[0]
        if name.endswith("_schema"):
            return OPTIONS[group][name.removesuffix("_schema")]
        if name != "_self_":
            return schema_of(group, name)
    raise ConfigError(
        f"conf/{group}/{option}.yaml extends no schema.\n"
        f"Begin it with `defaults: [{option}_schema, _self_]`."
    )


def choices(names: Collection[str]) -> Iterator[str]:
    """List each group that leaves a choice to a stage which reads these sections."""
    for group in groups():
        found, default = options(group), default_option(group)
        if found in ([], [default]) or not concerns(group.replace("/", "."), names):
            continue
        others = [option for option in found if option != default]
        text = f"{group}={'|'.join([default, *others] if default else others)}"
        yield text if default else f"[{text}]"


def keys_of_other_options(keys: list[str], chosen: dict[str, str]) -> Iterator[str]:
    """Name keys that the chosen option of a group lacks, and the options that have them.

    Args:
        keys: what is set.
        chosen: the option by group, where it is not the one of conf/config.yaml.
    """
    tables = "data.provenance.tables"
    if chosen.get("data/provenance", default_option("data/provenance")) == "none":
        for key in [key for key in keys if inside(key, [tables])]:
            yield f"{key}: there are no tables; choose data/provenance=heuristic"
    for group in OPTIONS:
        option = chosen.get(group) or default_option(group)
        names = {each: own_names(schema_of(group, each)) for each in options(group)}
        for key in [key for key in keys if inside(key, [group]) and not inside(key, [tables])]:
            rest = key.removeprefix(f"{group}.")
            having = [
                each for each, has in names.items() if any(inside(one, [rest]) for one in has)
            ]
            if option in names and option not in having and having:
                choose = " or ".join(f"{group}={each}" for each in having)
                yield f"{key}: {group}={option} has no such key; choose {choose}"

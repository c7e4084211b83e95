"""What a user types and reads: the spelling of arguments, `--help`, and Hydra's errors in words."""

import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from pipeline.config import rules
from pipeline.errors import ConfigError, report_problems
from pipeline.files import ROOT

COMPOSITION_ERRORS = (HydraException, yaml.YAMLError)
CONF = ROOT / "conf"
LIMITS = {"minimum": "from", "maximum": "to"}


def usual_spelling(arguments: list[str]) -> list[str]:
    """Take Hydra's `+experiment=NAME` for `experiment=NAME`, which is how conf/ has it.

    And `--explain SUBJECT` for `explain='SUBJECT'`, which is how Hydra wants any text.
    """
    groups = r"^\+(experiment|debug|hardware)="
    spelt = [re.sub(groups, r"\1=", argument) for argument in arguments]
    if "--explain" in spelt[:-1]:
        flag = spelt.index("--explain")
        spelt[flag : flag + 2] = [f"explain={quoted(spelt[flag + 1])}"]
    return spelt


def quoted(text: str) -> str:
    """Quote a text for Hydra: a backslash counts only before a quote and at the end."""
    text = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    text = text.replace("${", "$ {")  # else Hydra would look for a key of that name
    return f"'{text}'"


def composition_error(error: Exception) -> ConfigError:
    """Say what Hydra found wrong in conf/ or in an override, with the nearest parameter."""
    text = "\n".join(dict.fromkeys([str(error), str(error.__cause__ or error)]))
    asked = re.search(r"^Key .* not in [^$]*full_key: (\S+)", text, re.MULTILINE)
    near = rules.nearest(asked[1]) if asked else None
    return ConfigError(text + (f"\nDid you mean {near}?" if near else ""))


def unknown_candidates(arguments: list[str]) -> list[str]:
    """Pick the keys that arguments set; those that are Hydra's own are not judged."""
    overrides = [item for item in arguments if "=" in item and not item.startswith("-")]
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException:
        return []  # Hydra will say what is wrong with it
    own = ("hydra", "hardware", "experiment", "debug")
    keys = [item.key_or_group.replace("/", ".") for item in parsed]
    return [key for key in keys if key.split(".")[0] not in own]


@contextmanager
def null_sections_told(arguments: list[str]) -> Iterator[None]:
    """Put into words what Hydra says of a key under a section that is null.

    Raises:
        ConfigError: with every such key, and the choices that have the section.
    """
    try:
        yield
    except AssertionError as error:
        if str(error).startswith("Unexpected type for root"):
            problems = list(keys_of_null_sections(arguments))
            report_problems(ConfigError, "These parameters cannot be used:", problems)
        raise


def keys_of_null_sections(arguments: list[str]) -> Iterator[str]:
    """Say which keys stand under a section that the chosen group leaves out."""
    given = dict(item.lstrip("+").split("=", 1) for item in arguments if "=" in item)
    for section in rules.optional_sections():
        group, _, name = section.partition(".")
        chosen = given.get(group) or default_option(group)
        having = [each for each in options(group) if contents(group, each)[name] is not None]
        if chosen in having:
            continue
        choose = " or ".join(f"{group}={each}" for each in having)
        for key in unknown_candidates(arguments):
            if rules.inside(key, [section]):
                yield f"{key}: {section} is null with {group}={chosen}; choose {choose}"


def options(group: str) -> list[str]:
    """List what may be chosen in a group of conf/."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def default_option(group: str) -> str | None:
    """Read what conf/config.yaml chooses in a group; None where that is nothing."""
    defaults = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    return next(
        (entry[group] for entry in defaults if isinstance(entry, dict) and group in entry), None
    )


def contents(group: str, option: str) -> dict[str, Any]:
    """Read an option of a group of conf/."""
    return yaml.safe_load((CONF / group / f"{option}.yaml").read_text(encoding="utf-8"))


def choices(names: Collection[str]) -> Iterator[str]:
    """Write down each group of conf/ that leaves a choice to a stage which reads these sections."""
    for group in sorted(path.relative_to(CONF).as_posix() for path in CONF.rglob("*/")):
        found, default = options(group), default_option(group)
        if found == [default] or not rules.concerns(group.replace("/", "."), names):
            continue
        others = [option for option in found if option != default]
        text = f"{group}={'|'.join([default, *others] if default else others)}"
        yield text if default else f"[{text}]"


def help_text(function: Callable, names: tuple[str, ...]) -> str:
    """Describe a stage: what it does, and each parameter that it reads."""
    lines = [
        inspect.getdoc(function) or "",
        "",
        f"usage: python -m {module_name(function)} [KEY=VALUE ...] [GROUP=CHOICE ...] "
        "[experiment=NAME] [inputs=RUN_FOLDER]",
        f"       python -m {module_name(function)} -m KEY=VALUE,VALUE ...      a sweep",
        f"       python -m {module_name(function)} --cfg job                   show the values",
        "",
        "Values come from conf/; by hand all is written under runs/.",
        "Its groups, and what may be chosen in each; the default is first, [...] has none:",
        *(f"  {choice}" for choice in choices(names)),
        "",
        "Parameters of this stage:",
    ]
    for name, field in rules.leaves():
        if rules.inside(name, names):
            lines.append(f"  {name:<38} {describe(field)}")
    return "\n".join(lines)


def module_name(function: Callable) -> str:
    """Name the module of a stage, also when it runs as a script."""
    module = function.__module__
    return f"stages.{Path(sys.argv[0]).stem}" if module == "__main__" else module


def describe(field: Any) -> str:  # noqa: ANN401
    """Describe one parameter: type, meaning, unit and range."""
    facts = field.metadata
    if not facts:
        return ""
    kind = field.type.__name__ if isinstance(field.type, type) else str(field.type)
    bounds = [f"{word} {facts[side]}" for side, word in LIMITS.items() if facts[side] is not None]
    extra = [*map(str, facts["choices"]), facts["unit"], *bounds]
    return f"{facts['help']} ({'; '.join([kind, *filter(None, extra)])})"

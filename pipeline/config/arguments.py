"""What a user types after `python -m stages.NAME`: flags, and Hydra's overrides."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException

from pipeline.config.groups import WITHOUT_KEYS, groups, options
from pipeline.config.keys import check_known, leaves
from pipeline.config.mlx_lm_flags import answers
from pipeline.errors import ConfigError, report_problems

NOW_FLAGS = {"status": "--status", "plan_only": "--plan", "explain": "--explain FILE"}
"""What used to be parameters, and is a flag of a stage now."""


@dataclass(frozen=True)
class Flag:
    """An argument that is no parameter: it is taken off before Hydra reads the others.

    Attributes:
        name: without the dashes; the argument of the stage's function that takes it.
        help: what it does.
        value: the name of the value that follows it; empty where none does.
        implies: the option that is chosen in a group, unless the user chooses one.
        needs: the flag that it goes with; empty where it may stand alone.
        takes_all: whether the stage is given all sections then, so that any key may be set.
    """

    name: str
    help: str
    value: str = ""
    implies: tuple[str, str] | None = None
    needs: str = ""
    takes_all: bool = False

    @property
    def usage(self) -> str:
        """The flag as a user types it."""
        return f"--{self.name} {self.value}".rstrip()


def take_flags(arguments: list[str], flags: tuple[Flag, ...]) -> tuple[list[str], dict[str, Any]]:
    """Split arguments into those of Hydra, and the flags with their values.

    Raises:
        ConfigError: when the value of a flag is missing, or the flag that it goes with.
    """
    known = {f"--{flag.name}": flag for flag in flags}
    left, found, rest = [], {}, iter(arguments)
    for argument in rest:
        name, is_joined, value = argument.partition("=")
        if name not in known:
            left.append(argument)
            continue
        flag = known[name]
        if flag.value and not is_joined:
            value = next(rest, "")
        if bool(value) != bool(flag.value):
            raise ConfigError(f"{argument}: write {flag.usage}")
        found[flag.name] = value or True
        if flag.implies and not any(each.startswith(f"{flag.implies[0]}=") for each in arguments):
            left.append("=".join(flag.implies))
    for flag in flags:
        if flag.name in found and flag.needs and flag.needs not in found:
            raise ConfigError(f"{flag.usage} goes with --{flag.needs}; write both, or neither")
    return left, found


def usual_spelling(arguments: list[str]) -> list[str]:
    """Take Hydra's `+experiment=NAME` for `experiment=NAME`, which is how conf/ has it."""
    return [re.sub(r"^\+(experiment|debug|hardware)=", r"\1=", argument) for argument in arguments]


def parsed(arguments: list[str]) -> list[Override]:
    """Parse the overrides among arguments; those that are Hydra's own are left out."""
    overrides = [item for item in arguments if "=" in item and not item.startswith("-")]
    try:
        found = OverridesParser.create().parse_overrides(overrides)
    except HydraException:
        return []  # Hydra will say what is wrong with it
    return [override for override in found if key_of(override).split(".")[0] != "hydra"]


def key_of(override: Override) -> str:
    """Name the key or the group that an override sets, as a key."""
    return override.key_or_group.replace("/", ".")


def set_keys(arguments: list[str]) -> list[str]:
    """List the keys that arguments set."""
    keys = map(key_of, parsed(arguments))
    return [key for key in keys if key.split(".")[0].split("@")[0] not in WITHOUT_KEYS]


def chosen_options(arguments: list[str]) -> dict[str, str]:
    """List what arguments choose in groups."""
    pairs = [item.lstrip("+").partition("=") for item in arguments]
    return {name: value for name, _, value in pairs if name in groups()}


def check_arguments(arguments: list[str]) -> None:
    """Refuse arguments that name what does not exist, or that would be read as something else.

    Raises:
        ConfigError: with each of them.
    """
    report_problems(
        ConfigError,
        "These are flags of mlx_lm.lora. Write instead:",
        list(answers(arguments)),
        "docs/from_mlx_lm.md compares the two; `--help` lists the parameters of a stage.",
    )
    overrides = parsed(arguments)
    old = [
        f"{override.input_line}: is no parameter; write {NOW_FLAGS[key_of(override)]}"
        for override in overrides
        if key_of(override) in NOW_FLAGS
    ]
    flags = [flag.split()[0] for flag in NOW_FLAGS.values()]
    old += [
        f"{argument}: this stage has no such flag" for argument in arguments if argument in flags
    ]
    remedy = "`--help` lists the flags and parameters of a stage."
    report_problems(ConfigError, "These arguments cannot be used:", old, remedy)
    check_known(set_keys(arguments))
    report_problems(
        ConfigError, "These arguments would be misread:", list(misread_arguments(overrides))
    )


def misread_arguments(overrides: list[Override]) -> Iterator[str]:
    """Name numbers that choose an option of a group, and numbers where a text is wanted."""
    texts = {name for name, field in leaves() if field.type in (str, str | None)}
    for override in [each for each in overrides if not each.is_sweep_override()]:
        typed, value = str(override.input_line).partition("=")[2], override.value()
        if isinstance(value, QuotedString) or not isinstance(value, bool | int | float):
            continue
        if override.key_or_group in groups():
            group = override.key_or_group
            yield f"{override.input_line}: choose one of {', '.join(options(group)) or 'none'}"
        elif key_of(override) in texts and str(value) != typed:
            quoted = f"\"{override.key_or_group}='{typed}'\""
            yield f"{override.input_line}: is read as {value}; for the text write {quoted}"

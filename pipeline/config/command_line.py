"""What a user reads: `--help`, and Hydra's errors in words."""

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.arguments import Flag, chosen_options, set_keys
from pipeline.config.groups import CONF, choices, keys_of_other_options
from pipeline.config.keys import inside, leaves, nearest
from pipeline.errors import ConfigError
from pipeline.files import ROOT

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError)
LIMITS = {"minimum": "from", "maximum": "to"}
UNSET_VARIABLE = re.compile(r"Environment variable '(.+)' not found")
OF_THE_SCHEMA = re.compile(r"\n\t\w+_schema$|\n +(reference|object)_type=.*$", re.MULTILINE)
"""What Hydra and OmegaConf name of the schema, which a user does not see."""


def composition_error(error: Exception, arguments: list[str]) -> ConfigError:
    """Describe what Hydra found wrong in conf/ or in an override, with what was meant.

    Raises:
        UnicodeDecodeError: when that is the error, and it is of none of these files.
    """
    if isinstance(error, UnicodeDecodeError):
        return not_utf8(error)
    elsewhere = list(keys_of_other_options(set_keys(arguments), chosen_options(arguments)))
    if elsewhere:
        return ConfigError("\n  ".join(["These parameters cannot be used:", *elsewhere]))
    text = "\n".join(dict.fromkeys([str(error), str(error.__cause__ or error)]))
    unset = UNSET_VARIABLE.search(text)
    if unset:
        return ConfigError(
            f"the environment variable {unset[1]} is not set, and ${{oc.env:{unset[1]}}} refers to "
            f"it.\nSet it (`export {unset[1]}=VALUE`), or give a default: "
            f"${{oc.env:{unset[1]},DEFAULT}}."
        )
    asked = re.search(r"^Key .* not in [^$]*full_key: (\S+)", text, re.MULTILINE)
    near = nearest(asked[1]) if asked else None
    return ConfigError(OF_THE_SCHEMA.sub("", text) + (f"\nDid you mean {near}?" if near else ""))


def not_utf8(error: UnicodeDecodeError) -> ConfigError:
    """Name each file of conf/, and params.yaml, that is no text in UTF-8.

    Raises:
        UnicodeDecodeError: the given one, when all of them are.
    """
    files = [ROOT / "params.yaml", *sorted(CONF.rglob("*.yaml"))]
    wrong = [file for file in files if file.is_file() and not is_utf8(file.read_bytes())]
    if not wrong:
        raise error
    listed = [f"  {file.relative_to(ROOT)}" for file in wrong]
    remedy = "`python -m stages.params` writes params.yaml anew; mend files of conf/ by hand."
    return ConfigError("\n".join(["These files are no text in UTF-8:", *listed, remedy]))


def is_utf8(content: bytes) -> bool:
    """Whether bytes are text in UTF-8."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def explain_null_sections(arguments: list[str]) -> Iterator[None]:
    """Put into words what Hydra says of a key under a section that is null.

    Raises:
        ConfigError: with every such key, and the choices that have the section.
    """
    try:
        yield
    except AssertionError as error:
        if str(error).startswith("Unexpected type"):
            raise composition_error(error, arguments) from error
        raise


def help_text(
    function: Callable, names: tuple[str, ...], flags: tuple[Flag, ...], defaults: dict[str, Any]
) -> str:
    """Describe a stage: what it does, its flags, and each parameter that it reads.

    Args:
        function: of the stage.
        names: the sections and keys that it reads.
        flags: those that it takes.
        defaults: values by dotted name, as conf/ has them.
    """
    command = f"python -m {module_name(function)}"
    lines = [
        inspect.getdoc(function) or "",
        "",
        f"usage: {command} [KEY=VALUE ...] [GROUP=CHOICE ...] [experiment=NAME] "
        "[inputs=RUN_FOLDER|latest]",
        f"       {command} -m KEY=VALUE,VALUE ...      a sweep",
        f"       {command} --cfg job                   show the values",
        *(f"       {command} {flag.usage:<27} {flag.help}" for flag in flags),
        "",
        "Values come from conf/; by hand all is written under runs/. Earlier stages whose outputs",
        "are missing run first; inputs= names a run whose outputs and parameters are used instead.",
        "Its groups, and what may be chosen in each; the default is first, [...] has none:",
        *(f"  {choice}" for choice in choices(names)),
        "",
        "Parameters of this stage, with their defaults (`-` where another choice of the group has "
        "the key):",
    ]
    for name, field in leaves():
        if inside(name, names):
            default = in_words(defaults[name]) if name in defaults else "-"
            lines.append(f"  {f'{name}={default}':<44} {describe(field)}")
    return "\n".join(lines)


def in_words(value: Any) -> str:  # noqa: ANN401
    """Write a value as an override has it."""
    return value if isinstance(value, str) else json.dumps(value)


@contextmanager
def help_as_text() -> Iterator[None]:
    """Turn help texts into strings, as argparse of Python 3.14 wants them.

    It looks for `%` in each when the argument is added; Hydra 1.3 adds one that is an object.
    """
    original = argparse.ArgumentParser.add_argument

    def add_argument(self: argparse.ArgumentParser, *names: Any, **facts: Any) -> Any:  # noqa: ANN401
        text = facts.get("help")
        if text is not None and not isinstance(text, str):
            facts["help"] = str(text).replace("%", "%%")
        return original(self, *names, **facts)

    argparse.ArgumentParser.add_argument = add_argument
    try:
        yield
    finally:
        argparse.ArgumentParser.add_argument = original


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
    if facts["words"]:
        kind = " or ".join(["number", *facts["words"]])
    bounds = [f"{word} {facts[side]}" for side, word in LIMITS.items() if facts[side] is not None]
    extra = [*map(str, facts["choices"]), facts["unit"], *bounds]
    return f"{facts['help']} ({'; '.join([kind, *filter(None, extra)])})"

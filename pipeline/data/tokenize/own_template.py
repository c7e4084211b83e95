"""The chat template of the prepared tokenizer: the model's own, or another one with other defaults.

All that the user chooses is written into the template. So training, exports and every program that
reads them later ask the model in the same way, and nothing has to be passed on.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.data.tokenize.tokenizer import load_tokenizer
from pipeline.errors import ConfigError, report_problems
from pipeline.files import write_json

TEMPLATE = "chat_template.jinja"
NAMED_TEMPLATES = "additional_chat_templates"
DEFAULT = "default"
GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""What a template is given with each conversation."""
OF_LIBRARY = frozenset(
    {"raise_exception", "strftime_now", "bos_token", "eos_token", "unk_token", "pad_token"}
)
"""What the transformers library adds."""
GENERATION_MARK = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""A statement of the transformers library that marks answers, which Jinja does not know."""


def set_template(
    folder: Path, template: Path | None, defaults: Mapping[str, Any], named: Path | None = None
) -> None:
    """Give a tokenizer another chat template, or its template defaults of variables.

    Args:
        folder: the files of the tokenizer, which are changed.
        template: a file that replaces the templates of the tokenizer; None: they stay.
        defaults: values of variables that templates read.
        named: where the files come from, as the user knows it; None: the folder.

    Raises:
        ConfigError: when the file cannot be read, or no template reads a variable.
    """
    if template is not None:
        write_templates(folder, {DEFAULT: read_template(template)})
    if not defaults:
        return
    templates = templates_of(folder, named)
    check_variables(templates, defaults)
    head = "".join(default_of(name, value) for name, value in defaults.items())
    write_templates(folder, {name: head + text for name, text in templates.items()})


def read_template(path: Path) -> str:
    """Read a chat template.

    Raises:
        ConfigError: when there is none, or it is no text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"data.chat_template={path}: cannot be read ({error}).\n"
            "Give a file with a template in Jinja, in UTF-8."
        ) from error


def templates_of(folder: Path, named: Path | None) -> dict[str, str]:
    """Return the chat templates of a tokenizer by name.

    Raises:
        ConfigError: when it has none.
    """
    found = load_tokenizer(folder, named).chat_template
    if not found:
        raise ConfigError(
            "data.template_kwargs is set, and the tokenizer of this model has no chat template.\n"
            "Set it to {}, or give a template: data.chat_template=FILE"
        )
    return dict(found) if isinstance(found, dict) else {DEFAULT: found}


def write_templates(folder: Path, templates: Mapping[str, str]) -> None:
    """Write chat templates into the files where transformers looks first, and no others.

    Args:
        folder: the files of the tokenizer.
        templates: by name.
    """
    shutil.rmtree(folder / NAMED_TEMPLATES, ignore_errors=True)
    (folder / "chat_template.json").unlink(missing_ok=True)
    for name, text in templates.items():
        file = folder / (TEMPLATE if name == DEFAULT else f"{NAMED_TEMPLATES}/{name}.jinja")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="\n")
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        values = json.loads(settings.read_text(encoding="utf-8"))
        if values.pop("chat_template", None) is not None:
            write_json(settings, values)


def check_variables(templates: Mapping[str, str], defaults: Mapping[str, Any]) -> None:
    """Refuse variables that no template reads, those given with each row, and what is no name.

    Raises:
        ConfigError: with each of them.
    """
    read = {name for text in templates.values() for name in variables_of(text)}
    own = read - GIVEN - OF_LIBRARY
    problems = [
        f"{name}: the template reads no such variable"
        if name not in read
        else f"{name}: it is given with each row, or by the library"
        for name in defaults
        if name not in own
    ]
    remedy = f"The chat template of this model reads {', '.join(sorted(own)) or 'no variables'}."
    headline = "data.template_kwargs has names that cannot be used:"
    report_problems(ConfigError, headline, problems, remedy)


def variables_of(template: str) -> set[str]:
    """Return the names that a template reads and does not always set itself.

    Raises:
        ConfigError: when it is no template.
    """
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        return meta.find_undeclared_variables(environment.parse(GENERATION_MARK.sub("", template)))
    except Exception as error:  # of any type: a template may be nested too deeply
        raise ConfigError(
            f"data.template_kwargs is set, and the chat template cannot be read ({error}).\n"
            "Mend it, or give another one: data.chat_template=FILE"
        ) from error


def default_of(name: str, value: object) -> str:
    """Return the statement that sets a variable where it is not given."""
    return f"{{%- set {name} = {name} if {name} is defined else {literal(value)} %}}"


def literal(value: object) -> str:
    """Write a value as Jinja reads it: as JSON, with `none` for null."""
    if isinstance(value, Mapping):
        pairs = (f"{literal(str(name))}: {literal(inner)}" for name, inner in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)

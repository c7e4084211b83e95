"""Code that comes with a model: it is never run, and is needed by no architecture that is built in.

Published folders name it under `auto_map`, in config.json (the model) and tokenizer_config.json
(the tokenizer); `transformers` would ask at the terminal whether to run it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers

from pipeline.errors import ModelError, report_problems
from pipeline.external.json_files import read_foreign
from pipeline.external.shapes import TEXT, Maybe
from pipeline.model.network import upstream
from pipeline.model.source.folder import FOREIGN, read_config

MAP = "auto_map"
TOKENIZER = "tokenizer_config.json"


def code_notice(folder: Path) -> str | None:
    """Describe what code of a model folder is ignored; None where it names none.

    Raises:
        ModelError: with what cannot be read without that code, because neither mlx-lm nor
            transformers has it.
    """
    own = [
        f"{name} ({', '.join(sorted(set(names)))})"
        for name in ("config.json", TOKENIZER)
        if (names := list(texts(settings_of(folder, name).get(MAP))))
    ]
    if not own:
        return None
    headline = f"{folder}: names code of its own in {' and '.join(own)}, which is never run, and:"
    remedy = "Use a model whose architecture mlx-lm has, with a tokenizer that transformers has."
    report_problems(ModelError, headline, list(not_built_in(folder)), remedy)
    return f"{folder}: code of its own is ignored: {' and '.join(own)}"


def settings_of(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON file of a model folder; empty where there is none."""
    path = folder / name
    shape = {"tokenizer_class": Maybe(TEXT)}
    return read_foreign(path, shape, FOREIGN) if path.exists() else {}


def texts(value: Any) -> Iterator[str]:  # noqa: ANN401
    """Yield all texts in lists and objects of any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts(part)


def not_built_in(folder: Path) -> Iterator[str]:
    """Describe what of a model is known to its own code alone."""
    config = read_config(folder)
    try:
        upstream.model_classes(config)
    except (Exception, SystemExit):  # a name from a stranger is looked up as a module
        yield f"model_type={config['model_type']} is no architecture of mlx-lm"
    settings = settings_of(folder, TOKENIZER)
    name = settings.get("tokenizer_class")
    if MAP in settings and name is not None and not is_tokenizer(name):
        yield f"tokenizer_class={name} is no tokenizer of transformers"


def is_tokenizer(name: str) -> bool:
    """Whether transformers has a tokenizer of this name."""
    found = getattr(transformers, name, None)
    return isinstance(found, type) and issubclass(found, transformers.PreTrainedTokenizerBase)

"""What a data set's folder says of its files, checked before the `datasets` library reads it.

The library follows what is written there out of the folder and to other machines, and holds a row
of any size.
"""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from pipeline.data.rows.fields import MAX_DEPTH, strings_in
from pipeline.errors import DataError, report_problems
from pipeline.external.json_files import Remedy, read_foreign
from pipeline.external.paths import inside
from pipeline.external.shapes import TEXT, Maybe

CARD, SETTINGS = "README.md", ".huggingface.yaml"
STATE, SPLITS = "state.json", "dataset_dict.json"
"""What `save_to_disk` leaves in the folder of a data set, and in that of several splits."""
MAX_CARD_LETTERS = 1 << 22
COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
LINES = (".jsonl", ".ndjson")
SAVED = Remedy(DataError, "Save the data set again, or give data.huggingface.name another folder.")


def check_card(name: str, folder: Path) -> None:
    """Refuse a folder whose card names files that are not in it.

    Raises:
        DataError: with the first of them, or because the card cannot be read.
    """
    if (folder / SETTINGS).exists():
        raise DataError(f"{name}: {SETTINGS} is not read here.\nWrite it into {CARD}.")
    if not (folder / CARD).is_file():
        return
    text = (folder / CARD).read_text(encoding="utf-8", errors="replace")
    try:
        check_settings(text)
        paths = [*strings_in(DatasetCard(text).data.to_dict().get("configs"))]
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f"{name}: {CARD} cannot be read: {error}\nMend the lines between --- at its start."
        ) from error
    for path in paths:
        if "://" in path or "::" in path or is_outside(path):
            raise DataError(
                f"{name}: {CARD} names {path}, which is not in the folder.\n"
                f"Put the files into the folder, and name them in {CARD} as they lie there."
            )


def check_settings(card: str) -> None:
    """Refuse a card whose settings are long or deep, or use aliases: a few write without end.

    Raises:
        ValueError: with what it has.
    """
    found = REGEX_YAML_BLOCK.search(card)
    settings, depth = found[2] if found else "", 0
    if len(settings) > MAX_CARD_LETTERS:
        raise ValueError(f"{len(settings)} letters of settings; {MAX_CARD_LETTERS} are allowed")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for event in yaml.parse(settings, Loader=loader):
        line = event.start_mark.line + 2
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"line {line} is nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"line {line} refers to *{event.anchor}; write it out")


def is_outside(path: str) -> bool:
    """Whether a path leads out of the folder that it is relative to, or nowhere."""
    return "\0" in path or Path(path).is_absolute() or ".." in Path(path).parts


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return any((folder / name).exists() for name in (STATE, SPLITS))


def check_saved(name: str, folder: Path) -> None:
    """Refuse a folder of `save_to_disk` that names files or folders outside of it.

    Raises:
        DataError: with each of them.
    """
    folders, problems = [folder], list[str]()
    if (folder / SPLITS).exists():
        splits = read_foreign(folder / SPLITS, {"splits": [TEXT]}, SAVED)["splits"]
        problems += outside(folder, SPLITS, splits)
        folders = [folder / split for split in splits]
    for place in folders if not problems else []:
        if (place / STATE).exists():
            state = read_foreign(place / STATE, {"_data_files": Maybe([{"filename": TEXT}])}, SAVED)
            files = [file["filename"] for file in state.get("_data_files") or []]
            problems += outside(place, STATE, files)
    report_problems(DataError, f"{name}: these are not in the folder:", problems, SAVED.text)


def outside(folder: Path, file: str, names: Iterable[str]) -> Iterator[str]:
    """Describe the names in a file that lead out of its folder, by themselves or by a link."""
    for name in names:
        if is_outside(name) or not inside(folder / name, folder):
            yield f"{name}, which {file} names"


def check_lines(name: str, files: Iterable[Path], most: int) -> None:
    """Refuse files of JSON lines, compressed ones too, that have a line that is too long.

    Raises:
        DataError: with the first of them, or because it cannot be read.
    """
    for file in files:
        opener = COMPRESSED.get(file.suffix, open)
        inner = file.with_suffix("") if file.suffix in COMPRESSED else file
        if inner.suffix not in LINES:
            continue
        try:
            with opener(file, "rb") as stream:
                number = first_long_line(stream, most)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise DataError(f"{name}: {file.name} cannot be read: {error}") from error
        if number:
            raise DataError(
                f"{name}: {file.name}, line {number} is longer than data.max_line_bytes={most}.\n"
                "Shorten it, or set data.max_line_bytes higher."
            )


def first_long_line(stream: Any, most: int) -> int:  # noqa: ANN401
    """Return the number of the first line that is longer than so many bytes; 0 without one."""
    number = 0
    while line := stream.readline(most + len(b"\r\n")):
        number += 1
        if len(line.rstrip(b"\r\n")) > most:
            return number
    return 0

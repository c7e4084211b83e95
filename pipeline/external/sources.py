"""The sources of rows: what each needs to be set, and which files it reads.

The schema, the rules and the fingerprints in params.yaml follow `SOURCES`. How rows are read
stands in `pipeline/data/sources`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from pipeline.errors import ConfigError, DataError, report_problems
from pipeline.external.download import DownloadError, download
from pipeline.external.paths import RENAME, external, fingerprint, is_hub_id, is_utf8
from pipeline.external.stdlib import stdlib_fingerprint, stdlib_root

Fingerprint = Callable[[Path], dict[str, Any]]


def data_path(data: DictConfig) -> Path:
    """Return `data.path`, relative to the repository."""
    return external(data.path)


def files_under(path: Path) -> list[Path]:
    """List the file itself, or all files of a folder by name, hidden ones left out.

    Raises:
        DataError: when there are none.
    """
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.is_file() and not is_hidden(file, path))
    return require_files(path, files, "no files")


def is_hidden(file: Path, folder: Path) -> bool:
    """Whether a file or a folder on the way to it has a name that begins with a dot."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def require_files(path: Path, files: list[Path], lacking: str) -> list[Path]:
    """Return the files.

    Raises:
        DataError: when there are none, or their names are no UTF-8.
    """
    if not files:
        what = f"the folder has {lacking}" if path.is_dir() else "there is no such file or folder"
        raise DataError(f"data.path={path}: {what}.\nGive a file, or a folder that holds some.")
    problems = [name for name in map(str, files) if not is_utf8(name)]
    report_problems(DataError, f"data.path={path}: these names are no UTF-8:", problems, RENAME)
    return files


def jsonl_files(path: Path) -> list[Path]:
    """List the file itself, or the `*.jsonl` of a folder by name.

    Raises:
        DataError: when there are none, or one of them is no file.
    """
    if path.is_file():
        return [path]
    files = require_files(path, sorted(path.glob("*.jsonl")), "no *.jsonl")
    for file in files:
        if not file.is_file():
            raise DataError(f"data.path={path}: {file.name} is not a file.\nRename or remove it.")
    return files


def dataset_files(folder: Path) -> list[Path]:
    """List the files of a data set; programs are no part of it."""
    return [file for file in files_under(folder) if file.suffix != ".py"]


def dataset_folder(data: DictConfig) -> Path:
    """Return the folder of `data.huggingface.name`; fetch it first when it is a hub id.

    Raises:
        ConfigError: when it is a hub id and `data.allow_network` is false.
        DataError: when there is no such folder, or the download fails.
    """
    name, revision = data.huggingface.name, data.huggingface.revision
    if external(name).is_dir():
        return external(name)
    if not is_hub_id(name):
        raise DataError(
            f"data.huggingface.name={name}: there is no such folder (looked at {external(name)}).\n"
            "Give a folder, or a hub id (organisation/name) with data.allow_network=true."
        )
    if not data.allow_network:
        raise ConfigError(
            f"data.huggingface.name={name}: there is no such folder, and a hub id is downloaded "
            "only when asked for.\nGive a folder, or add data.allow_network=true."
        )
    try:
        return download("dataset", name, revision, ["*"])
    except DownloadError as error:
        raise DataError(
            f"data.huggingface.name={name}: could not be fetched ({error}).\n"
            "Look at the id, data.huggingface.revision, and the network; HF_ENDPOINT names "
            "another hub."
        ) from error


def fingerprint_of(list_files: Callable[[Path], list[Path]]) -> Fingerprint:
    """Make the fingerprint of the files that a function lists, by name relative to the folder."""
    return lambda path: fingerprint(list_files(path), path.parent if path.is_file() else path)


ALL_FILES = fingerprint_of(files_under)


@dataclass(frozen=True)
class Source:
    """What a source needs and reads; by default all files of `data.path`.

    Attributes:
        needs: the key under `data` that must be set, and what it takes; None: no key.
        has_columns: whether rows come from somebody's table, whose columns may be renamed.
        root: finds the file or folder that is read; None: the source makes its rows itself.
        fingerprint: of what lies there.
    """

    needs: str | None = "path=FILE_OR_FOLDER"
    root: Callable[[DictConfig], Path] | None = data_path
    fingerprint: Fingerprint = ALL_FILES
    has_columns: bool = True


SOURCES = {
    "conflicts": Source(needs=None, root=None, has_columns=False),
    "huggingface": Source(
        "huggingface.name=FOLDER_OR_HUB_ID", dataset_folder, fingerprint_of(dataset_files)
    ),
    "jsonl": Source(fingerprint=fingerprint_of(jsonl_files)),
    "stdlib": Source(
        needs=None,
        root=lambda data: stdlib_root(),
        fingerprint=stdlib_fingerprint,
        has_columns=False,
    ),
}


def data_root(data: DictConfig) -> Path | None:
    """Return the file or folder that `data.source` reads; None where it makes its rows itself."""
    root = SOURCES[data.source].root
    return None if root is None else root(data)


def template_path(data: DictConfig) -> Path | None:
    """Return the file of `data.chat_template`, relative to the repository; None: there is none.

    Raises:
        ConfigError: when it is named and is no file.
    """
    if data.chat_template is None:
        return None
    path = external(data.chat_template)
    if not path.is_file():
        raise ConfigError(
            f"data.chat_template={data.chat_template}: there is no such file (looked at {path}).\n"
            "Give a chat template in Jinja, or null for the model's own."
        )
    return path


def data_fingerprint(config: DictConfig) -> dict[str, Any]:
    """Fingerprint the files that `data.source` reads, and that of `data.chat_template`."""
    root, template = data_root(config.data), template_path(config.data)
    found = {} if root is None else SOURCES[config.data.source].fingerprint(root)
    if template is None:
        return found
    return found | {"data.chat_template": fingerprint([template], template.parent)[template.name]}

"""`inputs=RUN_FOLDER`: the runs in which a stage looks for what other stages have written."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from pipeline.errors import ConfigError

RECORD = ".hydra/config.yaml"
GIVE = "Give the folder under runs/ that an earlier stage has written."


@dataclass(frozen=True)
class EarlierRuns:
    """The run that was named, the one that it was given itself, and so on.

    Attributes:
        folders: where to look, in this order.
        with_repository: whether what none of them has may be taken from the repository. It may
            where the last of them says that it was made so.
    """

    folders: tuple[Path, ...] = ()
    with_repository: bool = True


NONE = EarlierRuns()
"""Only the repository is looked at."""


def earlier_runs(named: Any, out: Path, outputs: Collection[str]) -> EarlierRuns:  # noqa: ANN401
    """Follow `inputs=RUN_FOLDER`, given by hand, to the run it names and to those behind it.

    Args:
        named: the value of `inputs`; under DVC it holds fingerprints.
        out: the folder of this run, which may be named too: it may still be empty.
        outputs: the names of all that stages write.

    Raises:
        ConfigError: when there is no such folder, or none that a stage has written.
    """
    runs: list[Path] = []
    while named is not None and not isinstance(named, DictConfig):
        folder = Path(str(named)).resolve()
        if folder in runs:  # several stages may write to one folder
            break
        if folder != out.resolve():
            require_run(folder, str(named), outputs)
        runs.append(folder)
        if not (folder / RECORD).exists():  # another clone, or a copy of outputs
            return EarlierRuns(tuple(runs), with_repository=False)
        named = recorded_inputs(folder, str(named))
    return EarlierRuns(tuple(runs))


def require_run(folder: Path, named: str, outputs: Collection[str]) -> None:
    """Refuse a folder that holds no output of any stage.

    Raises:
        ConfigError: when it does not exist, or holds none.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"inputs={named}: there is no such run folder (looked at {folder}).\n{GIVE}"
        )
    if not any((folder / name).exists() for name in outputs):
        raise ConfigError(f"inputs={named}: {folder} holds nothing that a stage writes.\n{GIVE}")


def recorded_inputs(folder: Path, named: str) -> Any:  # noqa: ANN401
    """Read which run a run was given.

    Raises:
        ConfigError: when its record is damaged.
    """
    try:
        record = yaml.safe_load((folder / RECORD).read_text(encoding="utf-8"))
        return record["inputs"]
    except (OSError, UnicodeError, yaml.YAMLError, TypeError, KeyError) as error:
        raise ConfigError(
            f"inputs={named}: {folder / RECORD} is empty or damaged, so it is not known "
            f"what this run was made from.\nRun its stage again, or delete {RECORD} there: then "
            "nothing is taken from elsewhere."
        ) from error

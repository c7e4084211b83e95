"""The folder of a run by hand: one of its own, also where two runs begin in one second."""

import itertools
from pathlib import Path

from omegaconf import OmegaConf


def unused_folder(path: str) -> str:
    """Make a folder that no other run has, and return its path.

    Where there is one of this name, a number is added. Whoever makes a folder first has it, so no
    two processes take the same one.
    """
    for number in itertools.count(1):
        folder = Path(path if number == 1 else f"{path}_{number}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        except FileExistsError:
            if folder.parent.is_dir():
                continue
        except OSError:
            pass  # Hydra makes it too, and its error is the one that is reported
        return str(folder)
    raise AssertionError("numbers do not end")


def register() -> None:
    """Make `${unused_folder:PATH}` known to OmegaConf; a configuration asks for its folder once."""
    OmegaConf.register_new_resolver("unused_folder", unused_folder, replace=True, use_cache=True)

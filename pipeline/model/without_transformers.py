"""Importing mlx-lm without the Hugging Face libraries.

They take longer to import than all the rest: 1.0 s and 31 MB of a worker that starts in 0.8 s
without them, on two cores of a server. A worker reads prepared tokens, never makes a tokenizer,
and finds its model on the disk, so that it needs none of them.
"""

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any

SPARED = {
    "huggingface_hub": ("snapshot_download",),
    "transformers": ("AutoTokenizer", "PreTrainedTokenizer", "PreTrainedTokenizerFast"),
    "transformers.tokenization_utils_base": ("PreTrainedTokenizerBase",),
}
"""What the modules of mlx-lm that are imported here take from those libraries; a test compares."""


class NotNeeded:
    """Stands for a spared name; mlx-lm derives from one of the classes and registers it."""

    @classmethod
    def register(cls, *arguments: object, **options: object) -> None:
        """Do nothing."""


@contextlib.contextmanager
def without_transformers() -> Iterator[None]:
    """Replace the libraries until the end of the `with`, to import mlx-lm without them."""
    for module, names in SPARED.items():
        stand_in: Any = types.ModuleType(module)
        stand_in.__path__ = []
        for name in names:
            setattr(stand_in, name, NotNeeded)
        sys.modules[module] = stand_in
    try:
        yield
    finally:
        for module in SPARED:
            del sys.modules[module]

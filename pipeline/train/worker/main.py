"""Starts a worker: `python -m pipeline.train.worker.main MODULE TASK_FILE`.

While a stand-by imports, another worker trains. Threads of a BLAS that wait for each other slow
down many times over when a third one wants a core, so the imports run in a thread of the lowest
priority. MLX comes first: the threads that it and the BLAS start inherit the priority.
"""

import contextlib
import importlib
import os
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.train.protocol import Receiver, Sender

LOWEST_PRIORITY = 19
SPARED = {
    "huggingface_hub": ("snapshot_download",),
    "transformers": ("AutoTokenizer", "PreTrainedTokenizer", "PreTrainedTokenizerFast"),
    "transformers.tokenization_utils_base": ("PreTrainedTokenizerBase",),
}
"""What mlx-lm takes from the Hugging Face libraries when it is imported."""


class NotNeeded:
    """Stands for what is spared; mlx-lm derives from one of the classes and registers it."""

    @classmethod
    def register(cls, *arguments: object, **options: object) -> None:
        """Register nothing."""


@contextlib.contextmanager
def without_hugging_face() -> Iterator[None]:
    """Let mlx-lm be imported without the Hugging Face libraries, which take longer than the rest.

    A worker reads prepared tokens and never makes a tokenizer, and its model is on the disk.
    """
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


def import_quietly(module: str) -> None:
    """Import a module without taking a core from who needs it."""
    errors: list[BaseException] = []

    def run() -> None:
        if sys.platform == "linux":  # elsewhere a priority is that of the whole process
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
        try:
            with without_hugging_face():
                importlib.import_module(module)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def main() -> None:
    """Take over the pipes before anything can print into them, import, and work."""
    receiver, sender = Receiver(os.dup(0)), Sender(os.dup(1))
    os.dup2(2, 1)
    module, task_file = sys.argv[1:]
    try:
        importlib.import_module("pipeline.device")
        import_quietly(module)
    except PipelineError as error:  # as for a BLAS that cannot be used
        sender.send({"event": "error", "kind": type(error).__name__, "text": str(error)})
        sys.exit(1)
    worker = importlib.import_module("pipeline.train.worker.serve")
    worker.work(sys.modules[module].make, Path(task_file), receiver, sender)


if __name__ == "__main__":
    main()

"""Starts a worker: `python -m pipeline.train.worker.main SPECIFICATION_FILE`.

While a stand-by imports, another worker trains. Threads of a BLAS that wait for each other slow
down many times over when a third one wants a core, so the imports run in a thread of the lowest
priority. MLX comes first, because the threads that it and the BLAS start inherit the priority.
"""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.model.without_transformers import without_transformers
from pipeline.train.protocol import Receiver, Refused, Sender

LOWEST_PRIORITY = 19


def call_quietly(function: Callable[[], None]) -> None:
    """Call a function in a thread that takes no core from others; raise what it raises."""
    errors: list[BaseException] = []

    def run() -> None:
        if sys.platform == "linux":  # elsewhere the priority is that of the whole process
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def import_serve() -> None:
    """Import all that a worker needs."""
    with without_transformers():
        from pipeline.train.worker import serve  # noqa: F401


def main() -> None:
    """Take over the pipes before anything can print into them, import, and work."""
    receiver, sender = Receiver(os.dup(0)), Sender(os.dup(1))
    os.dup2(2, 1)
    try:
        import pipeline.device  # noqa: F401

        call_quietly(import_serve)
    except PipelineError as error:  # as for a BLAS that cannot be used
        sender.send(Refused(type(error).__name__, str(error)))
        sys.exit(1)
    from pipeline.train.worker.serve import work

    work(Path(sys.argv[1]), receiver, sender)


if __name__ == "__main__":
    main()

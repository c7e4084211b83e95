"""Writes parts of the rows at the same time, one process for each part."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from pipeline.data.preparation.collector import freeze_gc
from pipeline.data.preparation.part import Part, Written
from pipeline.data.sources.source import QUARANTINE, BadRows
from pipeline.errors import DataError, PipelineError
from pipeline.machine import allowed_cores

MIN_PART_BYTES = 1 << 26
"""What is worth a process: it takes seconds to start."""

Result = Written | PipelineError


def num_processes(total_bytes: int) -> int:
    """Return how many processes are worth it for rows of this size: one for each core at most."""
    return max(1, min(allowed_cores(), total_bytes // MIN_PART_BYTES))


def results_of(
    parts: Sequence[Part], progress: Callable[[int], None]
) -> Generator[tuple[Part, Result]]:
    """Write all parts at the same time; yield each with its result, in their order.

    The processes end when the iterator is closed, and also when this process ends in any way.
    They are spawned, because the threads of the tokenizer library do not survive a fork.

    Args:
        parts: what to write; their folders exist.
        progress: called with the number of rows done so far.

    Raises:
        DataError: when a process ends without a result.
    """
    with running(parts) as waiting:
        results, rows = dict[Path, Result](), dict[Path, int]()
        for part in parts:
            while part.folder not in results:
                for connection in wait([*waiting]):
                    assert isinstance(connection, Connection)
                    sender = waiting[connection]
                    message = received(connection, sender)
                    if isinstance(message, int):
                        rows[sender.folder] = message
                        progress(sum(rows.values()))
                    else:
                        results[sender.folder] = message
                        del waiting[connection]
            yield part, results[part.folder]


def received(connection: Connection, part: Part) -> int | Result:
    """Receive the number of rows done so far, or the result.

    Raises:
        DataError: when the process has ended without one.
    """
    try:
        return connection.recv()
    except EOFError:
        raise DataError(
            f"{part.source.name}: a process that prepares a part of the rows has ended without a "
            "result.\nIf the system killed it for memory, set data.max_line_bytes lower or "
            "give it more memory; a traceback above is an error of ours."
        ) from None


@contextmanager
def running(parts: Sequence[Part]) -> Iterator[dict[Connection, Part]]:
    """Start a process for each part; at the end kill those that still run."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, allowed_cores() // len(parts))
    processes, connections = list[SpawnProcess](), dict[Connection, Part]()
    try:
        for part in parts:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=run, args=(sender, part, threads), daemon=True)
            with interrupts_kept():
                process.start()
            sender.close()
            processes.append(process)
            connections[receiver] = part
        yield connections
    finally:
        for process in processes:
            process.kill()
            process.join()


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Delay Ctrl-C until the end of the context; processes started inside never receive one.

    A terminal sends it to them too, and one that imports would show a traceback. The process that
    started them ends them.
    """
    resource_tracker.ensure_running()  # starting it in the context would end the delay
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def run(connection: Connection, part: Part, threads: int) -> None:
    """Write a part in this process; send the number of rows done so far, and then the result."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # the library reads it when it first tokenizes
    try:
        with freeze_gc():
            bad = BadRows(part.settings.max_bad_rows, part.folder / QUARANTINE, whole_paths=True)
            result: Result = part.write(bad, connection.send)
    except PipelineError as error:
        result = error
    connection.send(result)


def end_with_parent() -> None:
    """Wait until the parent has ended, then end this process."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by multiprocessing"
    wait([parent.sentinel])
    os._exit(1)

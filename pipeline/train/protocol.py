"""What supervisor and worker send each other, and the run that they work on.

The channel is a pipe in each direction, with one message a line, as JSON. A worker writes events
to what was its standard output. It reads orders from its standard input, whose end means that the
supervisor is gone.
"""

import dataclasses
import json
import os
import select
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf

from pipeline.files import read_json, write_json
from pipeline.train.settings import TrainSettings

BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class RunSpec:
    """The specification of a run, in a file that each of its workers reads.

    Attributes:
        title: stands in front of each line that a person reads.
        kind: which of `worker.serve.RUNS` does it; `plan` where it is only to be planned.
        parameters: the sections that the stage reads.
        base: path of models/base.
        prepared: path of data/prepared.
        run_folder: path of the checkpoints and series of the run.
        output: path of the folder that the results are written to.
        activations: path where all runs keep activations of frozen blocks; empty: none are kept.
        code: hash of each module or folder whose code computes; see `config.stage.code_hashes`.
    """

    title: str
    kind: str
    parameters: dict[str, Any]
    base: str
    prepared: str
    run_folder: str
    output: str
    activations: str = ""
    code: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The path of the specification."""
        return Path(self.run_folder) / "run.json"

    @property
    def config(self) -> DictConfig:
        """The parameters, by dotted access."""
        return OmegaConf.create(self.parameters)

    def write(self) -> None:
        """Write the specification to `file`."""
        write_json(self.file, dataclasses.asdict(self))

    @staticmethod
    def read(file: Path) -> "RunSpec":
        """Read what `write` has written."""
        return RunSpec(**read_json(file))


def plain(config: DictConfig) -> dict[str, Any]:
    """Turn sections of the configuration into what JSON can hold."""
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    return {str(name): value for name, value in container.items()}


# Orders: from the supervisor to a worker


@dataclass(frozen=True)
class Go:
    """Train the next segment.

    Attributes:
        reloads: planned changes of process before this one.
        limit_bytes: footprint that the run may never pass.
        threshold_bytes: footprint above which another process takes over; None: the limit.
        interval_steps: another process takes over at each multiple of it; 0: never.
        sample_steps: likewise, because samples are generated there.
        if_changed: what to do where numerics or code differ from those of the checkpoint:
            `refuse`, `continue` (recorded as inexact), or `restart` from the first step.
        num_splits: micro-batches that each micro-batch is split into, after memory ran out.
        deaths: workers lost since the last progress; each one halves the checkpoint interval.
        save_within: the checkpoint interval is no longer than this; None: it has no bound.
        plan: `check` makes the plan first, and refuses what cannot fit; `none` does not.
    """

    reloads: int
    limit_bytes: int
    threshold_bytes: int | None
    interval_steps: int
    if_changed: str
    num_splits: int
    deaths: int
    save_within: int | None
    plan: str
    sample_steps: int = 0

    def is_end(self, step: int) -> bool:
        """Whether another process is to take over after a step."""
        intervals = self.interval_steps, self.sample_steps
        return any(interval and step % interval == 0 for interval in intervals)

    def adapt(self, settings: TrainSettings) -> TrainSettings:
        """Change the settings of the configuration as the history of the run demands."""
        interval = settings.steps_per_save >> self.deaths
        return dataclasses.replace(
            settings,
            grad_accumulation_steps=settings.grad_accumulation_steps * self.num_splits,
            steps_per_save=max(1, min(interval, self.save_within or interval)),
        )


@dataclass(frozen=True)
class Standby:
    """Count the memory of the next worker, which has been started early."""

    pid: int


@dataclass(frozen=True)
class Stop:
    """Finish the step, save and exit."""


# Events: from a worker to its supervisor


@dataclass(frozen=True)
class Ready:
    """The worker has imported everything and opened the data; it waits for `Go`."""

    device: str


@dataclass(frozen=True)
class Heartbeat:
    """The worker is alive, in work that has no steps."""


@dataclass(frozen=True)
class Note:
    """A line for a person to read."""

    text: str


@dataclass(frozen=True)
class Planned:
    """The prediction of the plan, in bytes."""

    peak_bytes: int
    floor_bytes: int


@dataclass(frozen=True)
class Started:
    """The weights are loaded, and the newest checkpoint is restored.

    Attributes:
        step: the last step that is done.
        changed: numerics and code that differ from those of the checkpoint.
    """

    step: int
    changed: list[str]


@dataclass(frozen=True)
class Step:
    """One step is done; its units are those of `report.StepReport`."""

    step: int
    train_loss: float
    tokens_per_second: float
    footprint_bytes: int
    seconds: float


@dataclass(frozen=True)
class Validated:
    """One validation is done; the loss is in nats per token."""

    step: int
    val_loss: float


@dataclass(frozen=True)
class ReloadAhead:
    """Memory grows, so that another process will have to take over."""

    text: str


@dataclass(frozen=True)
class Ending:
    """The last step of the segment is done; the worker saves now.

    Attributes:
        step: that step.
        reason: `stopped`, `interval` or `memory`.
    """

    step: int
    reason: str


@dataclass(frozen=True)
class Finishing:
    """All steps are done; the worker writes the results now."""


@dataclass(frozen=True)
class Result:
    """The metrics of the run, or the text of a plan."""

    metrics: dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """The worker has done its part, and exits.

    Attributes:
        reason: `done`, or one of those of `Ending`.
        leak_bytes_per_step: None where the process was too short to measure it.
    """

    reason: str
    leak_bytes_per_step: float | None


@dataclass(frozen=True)
class Refused:
    """The user can mend what is wrong, and no other worker would do better.

    Attributes:
        kind: name of a class of `pipeline.errors`.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Failed:
    """Something else went wrong; another worker may do better."""

    text: str
    is_memory: bool


Order = Go | Standby | Stop
Event = (
    Ready
    | Heartbeat
    | Note
    | Planned
    | Started
    | Step
    | Validated
    | ReloadAhead
    | Ending
    | Finishing
    | Result
    | Ended
    | Refused
    | Failed
)
KINDS = {kind.__name__: kind for kind in (*get_args(Order), *get_args(Event))}


# The channel


class Sender:
    """Writes messages to a file descriptor, from any thread.

    A pipe takes a long message in several parts. Without the lock, a heartbeat of another thread
    could end up between them.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, message: Order | Event) -> bool:
        """Send one message; return False where no process reads it."""
        fields = {"message": type(message).__name__, **dataclasses.asdict(message)}
        data = (json.dumps(fields) + "\n").encode()
        with self._lock:
            try:
                while data:
                    data = data[os.write(self.descriptor, data) :]
            except BrokenPipeError:
                return False
        return True


class Receiver:
    """Reads messages from a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.is_open = True
        self._rest = b""

    def receive(self, timeout_seconds: float | None) -> list[Any]:
        """Return the messages that have come; none when the time is over or the sender is gone.

        Args:
            timeout_seconds: how long to wait for the first one; None: without end.
        """
        if not self.is_open or not select.select([self.descriptor], [], [], timeout_seconds)[0]:
            return []
        block = os.read(self.descriptor, BLOCK_BYTES)
        self.is_open = bool(block)
        *lines, self._rest = (self._rest + block).split(b"\n")
        return [decoded(json.loads(line)) for line in lines]


def decoded(fields: dict[str, Any]) -> Any:  # noqa: ANN401
    """Turn what `Sender.send` has written back into a message."""
    return KINDS[fields.pop("message")](**fields)

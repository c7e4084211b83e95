"""Rounds: every program in turn, in a new process each, so that a busy machine slows all."""

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.benchmark.peers.child import NotMeasured
from pipeline.benchmark.peers.corpus import Corpus, Material
from pipeline.benchmark.peers.job import WARMUP_STEPS, Job, Outcome
from pipeline.benchmark.peers.programs import run
from pipeline.benchmark.peers.results import Results
from pipeline.config.schema import Peers

GB = 10**9
Finished = tuple[Job, Outcome]


@dataclass
class Comparison:
    """The state that all parts of a comparison share.

    Attributes:
        settings: `benchmark.peers`.
        num_steps: optimizer steps of a program, where a part has no number for that.
        num_rounds: how many times each program runs.
        seed: of the first round.
        folder: for all files; the caller deletes it.
        corpus: texts.
        material: model and rows of most parts.
        tell: shows a line to the user.
        results: the figures so far.
        place: the part that is running, as the user sees it.
        keep: writes the figures so far, so that an interruption does not lose them.
    """

    settings: Peers
    num_steps: int
    num_rounds: int
    seed: int
    folder: Path
    corpus: Corpus
    material: Material
    tell: Callable[[str], None]
    results: Results = field(default_factory=Results)
    place: str = ""
    keep: Callable[[], None] = lambda: None

    def job(self, material: Material, num_steps: int, batch_size: int | None = None) -> Job:
        """Return a job with the settings that all programs of a part have in common."""
        return Job(
            model=str(material.model),
            rows=str(material.rows),
            prepared=str(material.prepared),
            output="",
            num_steps=num_steps,
            batch_size=batch_size or self.settings.batch_size,
            learning_rate=self.settings.learning_rate,
            rank=self.settings.rank,
            seed=self.seed,
        )

    def run_rounds(
        self,
        part: str,
        jobs: Mapping[str, Job],
        num_rounds: int,
        record: Callable[[int, dict[str, Finished]], None],
    ) -> None:
        """Run the programs in alternating order, round by round.

        A program that fails is not run again in this part; the results keep the reason.

        Args:
            part: the part's name.
            jobs: one for each program; seed and output are set here.
            num_rounds: the number of rounds.
            record: is called after each round, while the files of its outcomes exist.
        """
        began, names = time.monotonic(), list(jobs)
        for number in range(1, num_rounds + 1):
            folder, finished = self.folder / part / str(number), dict[str, Finished]()
            for name in names if number % 2 else names[::-1]:
                if (part, name) not in self.results.reasons:
                    job = dataclasses.replace(
                        jobs[name], output=str(folder / name), seed=self.seed + number
                    )
                    self.run_one(part, name, job, finished, f"round {number}/{num_rounds}")
            record(number, finished)
            self.keep()
            shutil.rmtree(folder, ignore_errors=True)
            left = (time.monotonic() - began) / number * (num_rounds - number)
            self.say(f"round {number}/{num_rounds} done, about {left:,.0f} s left in this part")

    def run_one(
        self, part: str, name: str, job: Job, finished: dict[str, Finished], where: str
    ) -> None:
        """Run one program, and show its rate and its peak."""
        began = time.monotonic()
        self.say(f"{where}: {name}, {job.num_steps} steps ...")
        try:
            outcome = run(name, job)
        except NotMeasured as reason:
            self.results.note_missing(part, name, str(reason))
            self.say(f"{where}: {name} failed, and is left out of this part: {reason}")
            return
        finished[name] = job, outcome
        rate = outcome.rate(min(WARMUP_STEPS, job.num_steps - 1))
        seconds = time.monotonic() - began
        peak = f", peak {outcome.peak_bytes / GB:.2f} GB" if outcome.peak_bytes else ""
        self.say(f"{where}: {name}: {rate:,.0f} targets/s{peak}, {seconds:,.0f} s in all")

    def say(self, text: str) -> None:
        """Show a line with the part that is running."""
        self.tell(f"{self.place} {text}")

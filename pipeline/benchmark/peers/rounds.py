"""Rounds: the programs run in turn, so that a machine that is busy for a while slows them all."""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.benchmark.bars import write_outputs
from pipeline.benchmark.peers.child import NotMeasured
from pipeline.benchmark.peers.corpus import Corpus, Material
from pipeline.benchmark.peers.job import WARMUP_STEPS, Job, Outcome
from pipeline.benchmark.peers.programs import run
from pipeline.benchmark.peers.results import Results, summary
from pipeline.benchmark.throughput import machine
from pipeline.config.options import Peers
from pipeline.config.stage_paths import Paths
from pipeline.errors import PipelineError

GB = 10**9


@dataclass
class Comparison:
    """The settings and the figures of a comparison, which all its parts share.

    Attributes:
        settings: `benchmark.peers`.
        num_steps: optimizer steps of a program, where its part does not set another number.
        num_rounds: how many times each program runs, where its part does not set another number.
        seed: of the first round.
        folder: for all temporary files; the caller deletes it.
        paths: where metrics, table and picture are written.
        show: shows a line to the user.
        corpus: the texts.
        material: the model and the rows of most parts.
        results: the figures so far.
        part: the part that is running.
        label: that part as the user sees it.
        began: when the measuring began, in seconds of `time.monotonic`.
    """

    settings: Peers
    num_steps: int
    num_rounds: int
    seed: int
    folder: Path
    paths: Paths
    show: Callable[[str], None]
    corpus: Corpus
    material: Material
    results: Results = field(default_factory=Results)
    part: str = ""
    label: str = ""
    began: float = field(default_factory=time.monotonic)

    def job(self, material: Material, num_steps: int, **settings: Any) -> Job:  # noqa: ANN401
        """Return a job with the settings that all programs of a part have in common.

        Args:
            material: the model and the rows.
            num_steps: optimizer steps.
            settings: other fields of `Job`.
        """
        shared = {
            "batch_size": self.settings.batch_size,
            "learning_rate": self.settings.learning_rate,
            "rank": self.settings.rank,
        }
        folders = map(str, (material.model, material.rows, material.prepared))
        return Job(*folders, output="", num_steps=num_steps, seed=self.seed, **shared | settings)

    def record(self, program: str, number: int, **figures: float | int) -> None:
        """Record figures of a program in a round, by their names."""
        for figure, value in figures.items():
            self.results.add(self.part, figure, program, number, value)

    def keep(self) -> None:
        """Write the figures so far, so that an interruption does not lose them."""
        facts = {
            "corpus": self.corpus.name,
            "train_rows": self.material.num_rows,
            "seconds": time.monotonic() - self.began,
            "machine": machine(),
        }
        write_outputs(self.paths, summary(self.results) | facts, list(self.results.rows()))

    def attempt(self, measure: Callable[["Comparison"], None], program: str = "") -> bool:
        """Measure; note and show a failure, so that the rest can go on.

        Args:
            measure: a part, or a piece of one.
            program: what has no figures when it fails; empty: the whole part.

        Returns:
            Whether it did not fail.
        """
        try:
            measure(self)
        except (NotMeasured, PipelineError) as reason:
            self.results.reasons[self.part, program] = str(reason)
            self.say(f"failed, and the rest goes on: {reason}")
            return False
        return True

    def run_rounds(
        self, jobs: Mapping[str, Job], num_rounds: int
    ) -> Iterator[tuple[int, dict[str, Outcome]]]:
        """Run the programs round by round; every second round reverses their order.

        A program that fails is not run again in this part; the results keep the reason.

        Args:
            jobs: one for each program; seed and output are set here.
            num_rounds: the number of rounds.

        Yields:
            The number of a round, from 1, and the outcomes by program. Their files exist until the
            next round is asked for; then the figures are kept too.
        """
        began, names = time.monotonic(), list(jobs)
        for number in range(1, num_rounds + 1):
            where, outcomes = f"round {number}/{num_rounds}", dict[str, Outcome]()
            for name in names[:: 1 if number % 2 else -1]:
                output, seed = str(self.output(number, name)), self.seed + number
                job = dataclasses.replace(jobs[name], output=output, seed=seed)
                outcomes |= self.run_one(name, job, where)
            yield number, outcomes
            names = [name for name in names if name in outcomes]
            self.keep()
            shutil.rmtree(self.folder / self.part / str(number), ignore_errors=True)
            left = (time.monotonic() - began) / number * (num_rounds - number)
            self.say(f"{where} done, about {left:,.0f} s left in this part")

    def output(self, number: int, program: str) -> Path:
        """Return the folder of a program's files in a round of this part."""
        return self.folder / self.part / str(number) / program

    def run_one(self, name: str, job: Job, where: str) -> dict[str, Outcome]:
        """Run one program, and show its rate and its peak.

        Args:
            name: of the program.
            job: what it trains.
            where: the round, as the user sees it.

        Returns:
            Its outcome by its name; nothing when it failed.
        """
        began = time.monotonic()
        self.say(f"{where}: {name}, {job.num_steps} steps ...")
        try:
            outcome = run(name, job)
        except NotMeasured as reason:
            self.results.reasons[self.part, name] = str(reason)
            self.say(f"{where}: {name} failed, and is left out of this part: {reason}")
            return {}
        rate = outcome.rate(min(WARMUP_STEPS, job.num_steps - 1))
        seconds = time.monotonic() - began
        peak = f", peak {outcome.peak_bytes / GB:.2f} GB" if outcome.peak_bytes else ""
        self.say(f"{where}: {name}: {rate:,.0f} targets/s{peak}, {seconds:,.0f} s in all")
        return {name: outcome}

    def say(self, text: str) -> None:
        """Show a line that begins with the part that is running."""
        self.show(f"{self.label} {text}")

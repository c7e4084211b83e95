"""What the loop reports of an update."""

import dataclasses

from pipeline.device import MlxMemory
from pipeline.train.checkpoints.series import MACHINE_COLUMNS, RESULT_COLUMNS
from pipeline.train.observer import Observer
from pipeline.train.report import StepReport
from pipeline.train.step import StepResult

RESULT = StepResult(2.5, 0.5, 300, 450, True, 0.0, 1.0)
REPORT = StepReport(7, RESULT, 1e-3, 1.5, 400, MlxMemory(30, 20, 60))


def test_results_and_figures_of_the_machine_are_apart():
    result, machine = REPORT.result_row(), REPORT.machine_row(Observer())
    assert list(result) == list(RESULT_COLUMNS)
    assert list(machine) == list(MACHINE_COLUMNS)
    assert result.keys() & machine.keys() == {"step"}


def test_a_spike_is_what_was_held_beyond_what_is_left():
    assert REPORT.spike_bytes == 10
    assert dataclasses.replace(REPORT, memory=MlxMemory(30, 20, 40)).spike_bytes == 0


def test_targets_and_tokens_a_second():
    assert (REPORT.targets_per_second, REPORT.tokens_per_second) == (200, 300)
    slower = dataclasses.replace(REPORT, seconds=3.0).machine_row(Observer())
    assert (slower["targets_per_second"], slower["tokens_per_second"]) == (100, 150)

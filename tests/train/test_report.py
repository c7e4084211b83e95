"""What the loop reports of an update."""

import dataclasses

from pipeline.train.checkpoints.series import MACHINE_COLUMNS, RESULT_COLUMNS
from pipeline.train.observer import Observer
from pipeline.train.report import StepReport
from pipeline.train.step import StepResult

RESULT = StepResult(2.5, 0.5, 300, True, 0.0, 1.0)
REPORT = StepReport(7, RESULT, 1e-3, 1.5, 40, 30, 20, 10)


def test_results_and_figures_of_the_machine_are_apart():
    result, machine = REPORT.result_row(), REPORT.machine_row(Observer())
    assert list(result) == list(RESULT_COLUMNS)
    assert list(machine) == list(MACHINE_COLUMNS)
    assert result.keys() & machine.keys() == {"step"}


def test_targets_a_second():
    assert REPORT.tokens_per_second == 200
    slower = dataclasses.replace(REPORT, seconds=3.0)
    assert slower.machine_row(Observer())["tokens_per_second"] == 100

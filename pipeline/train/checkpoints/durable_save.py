"""Saves the series and checkpoints of a run, also where the disk is full for a while."""

import logging
from collections.abc import Sequence

from pipeline.device import mx
from pipeline.errors import CheckpointError
from pipeline.train.checkpoints.folder import Checkpoint, CheckpointFolder
from pipeline.train.checkpoints.series import Series
from pipeline.train.checkpoints.state import MODEL, weights_of

log = logging.getLogger(__name__)


class DurableSave:
    """Saves a run; while nothing can be written, keeps the best checkpoint in memory.

    Args:
        checkpoints: where checkpoints lie.
        series: these are on the disk before a checkpoint is.
    """

    def __init__(self, checkpoints: CheckpointFolder, series: Sequence[Series]) -> None:
        self.checkpoints, self.series = checkpoints, series
        self.saved_step = -1
        self._unsaved_best: Checkpoint | None = None

    def save(self, current: Checkpoint, best_step: int) -> bool:
        """Commit all that the rest of the run depends on; return whether it is on the disk now.

        Where the disk is full, a run that has an older checkpoint goes on. The next save then also
        writes what has been the best in the meantime.

        Args:
            current: the state after the newest step.
            best_step: the step with the best validation; its checkpoint is not pruned.

        Raises:
            CheckpointError: when nothing can be written and nothing was.
        """
        best = self._unsaved_best
        try:
            for series in self.series:
                series.sync()
            for checkpoint in [best, current] if best else [current]:
                self.checkpoints.save(checkpoint, protect=best_step)
        except CheckpointError as error:
            if not self.checkpoints.steps():
                raise
            log.warning("%s\nTraining goes on; the next save tries again.", error)
            self._unsaved_best = current if best_step == current.step else best
            return False
        self._unsaved_best, self.saved_step = None, current.step
        return True

    def best_weights(self, best_step: int) -> dict[str, mx.array]:
        """Load the weights of the step with the best validation, and no state of its optimizer.

        That state and the one in memory would be more than a step of training takes.
        """
        return weights_of(self._unsaved_best or self.checkpoints.load(best_step, MODEL))

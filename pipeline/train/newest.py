"""The model of a run that is under way, as its newest checkpoint has it."""

from pathlib import Path

from pipeline.device import nn
from pipeline.errors import CheckpointError
from pipeline.model.network.adapters import attach
from pipeline.model.network.base import open_base
from pipeline.model.network.tree import materialize, put_arrays
from pipeline.train.checkpoints.folder import CheckpointFolder
from pipeline.train.checkpoints.state import MODEL, weights_of
from pipeline.train.finetune import adapter_settings
from pipeline.train.protocol import RunSpec


def newest_model(spec: RunSpec) -> nn.Module:
    """Load the base of a fine-tuning with the trained weights of its newest checkpoint.

    Args:
        spec: of the run.

    Raises:
        CheckpointError: when there is none, or it is damaged.
    """
    checkpoints = CheckpointFolder(Path(spec.run_folder), spec.config.train.keep_checkpoints)
    steps = checkpoints.steps()
    if not steps:
        raise CheckpointError(
            f"{spec.run_folder}: this run has no checkpoint yet.\n"
            "Wait for the first one; train.steps_per_save sets the interval."
        )
    model = open_base(Path(spec.base), spec.config.model.dtype).model
    attach(model, adapter_settings(spec.config))
    put_arrays(model, weights_of(checkpoints.load(steps[-1], MODEL)))
    materialize(model)
    return model

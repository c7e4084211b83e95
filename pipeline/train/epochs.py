"""`train.num_epochs`: how many steps it makes, before anything else asks for their number.

Nothing here imports MLX: the supervisor's process does this.
"""

import copy
from pathlib import Path

from omegaconf import DictConfig

from pipeline.console import print_line
from pipeline.data.order import BatchOrder
from pipeline.data.store import TokenStore
from pipeline.objective.distrust import DistrustSettings, distrust


def with_num_steps(config: DictConfig, prepared: Path) -> DictConfig:
    """Replace `train.num_epochs` by the number of steps that it makes, and print both.

    A run of the same length that was given as `train.num_steps` is the same run.

    Args:
        config: the sections of the train stage.
        prepared: data/prepared.

    Raises:
        ConfigError: when a document is longer than `train.batch_tokens`.
    """
    train = config.train
    if train.num_epochs is None:
        return config
    store = TokenStore(prepared / "train")
    order = BatchOrder(
        store.lengths,
        seed=config.seed,
        batch_size=train.batch_size,
        batch_tokens=train.batch_tokens,
        probabilities=distrust(store, DistrustSettings(**config.objective.distrust)).probabilities,
    )
    num_steps = steps_in(order, train.num_epochs)
    print_line(
        f"train: {train.num_epochs:g} x {len(store):,} documents are {num_steps:,} steps "
        "(train.num_epochs)"
    )
    changed = copy.deepcopy(config)
    changed.train.num_steps, changed.train.num_epochs = num_steps, None
    return changed


def steps_in(order: BatchOrder, num_epochs: float) -> int:
    """Count the steps of some epochs, the last one perhaps in part; one at least."""
    whole = int(num_epochs)
    if order.batch_size is not None:
        return max(1, round(num_epochs * order.steps_in_epoch(0)))
    steps = sum(map(order.steps_in_epoch, range(whole)))
    return max(1, steps + round((num_epochs - whole) * order.steps_in_epoch(whole)))

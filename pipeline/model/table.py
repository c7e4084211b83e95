"""What is trained, as a table: like tensors of all blocks in one line."""

import re
from collections import defaultdict

from pipeline.device import nn
from pipeline.model.network.base import count_parameters
from pipeline.model.network.tree import trainable_arrays


def trainable_table(model: nn.Module, mode: str) -> str:
    """List groups of trainable tensors: names, shape, count, share of all that is trained.

    Args:
        model: trainable as it will be trained.
        mode: `train.mode`.
    """
    groups: dict[tuple[str, tuple[int, ...]], list[tuple[str, int]]] = defaultdict(list)
    for name, value in trainable_arrays(model).items():
        groups[re.sub(r"\.\d+\.", ".*.", name), value.shape].append((name, value.size))
    trained, total = count_parameters(model)
    rows = [
        row_of(pattern if len(found) > 1 else found[0][0], shape, found, trained)
        for (pattern, shape), found in groups.items()
    ]
    rows.append(("trained", "", f"{trained:,}", f"{trained / total:.3%} of {total:,}"))
    wide, middle, count = (max(len(row[column]) for row in rows) for column in range(3))
    lines = [
        f"  {row[0]:<{wide}}  {row[1]:<{middle}}  {row[2]:>{count}}  {row[3]:>6}" for row in rows
    ]
    return "\n".join([f"train.mode={mode} trains", *lines])


def row_of(
    name: str, shape: tuple[int, ...], found: list[tuple[str, int]], trained: int
) -> tuple[str, str, str, str]:
    """Word one line: name, shapes, count, share of all that is trained."""
    count = sum(size for _, size in found)
    return name, f"{len(found)} x {shape}", f"{count:,}", f"{count / trained:.1%}"

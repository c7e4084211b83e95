"""Writes the formats that are asked for, and refuses one that is read back as another model.

Never is a whole model in memory: weights are written one by one, and the logits of the base, the
tuned and each exported model are computed one block after the other, and compared afterwards.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.console import StageProgress
from pipeline.data.store import held_out_store
from pipeline.device import mx, nn
from pipeline.files import new_folder
from pipeline.formats import adapter, fused
from pipeline.formats.logits import logits_of, proof_inputs
from pipeline.formats.proof import compare, require_agreement
from pipeline.model.network.adapters import load_adapter, read_adapter_config
from pipeline.model.network.base import open_base


def export(
    base: Path, trained: Path, prepared: Path, formats: list[str], target: Callable[[str], Path]
) -> dict[str, Any]:
    """Write a trained model in each format, and read it back.

    Args:
        base: models/base.
        trained: the adapter to export.
        prepared: data/prepared, for rows to compare logits on.
        formats: names from `WRITERS`.
        target: returns the folder of a format.

    Returns:
        How the model was trained, and the proof of each format.

    Raises:
        ExportError: when what is read back is not the trained model.
    """
    config = read_adapter_config(trained)
    inputs = proof_inputs(held_out_store(prepared))
    disk = target(formats[0]).parent
    disk.mkdir(parents=True, exist_ok=True)
    metrics: dict[str, Any] = {}
    with StageProgress("export", 2 + 2 * len(formats)) as progress:
        base_logits = logits_of(open_base(base, "float32").model, inputs, disk)
        progress.advance("logits of the base")
        tuned_logits = logits_of(open_tuned(base, trained), inputs, disk)
        progress.advance("logits of the trained model")
        for name in formats:
            with new_folder(target(name)) as folder:
                exported, rounded = WRITERS[name](base, trained, folder)
                progress.advance(f"{name} written")
                exported_logits = logits_of(exported, inputs, disk)
                del exported
                proof = compare(base_logits, tuned_logits, exported_logits)
                require_agreement(name, proof, rounded)
                progress.advance(f"{name} read back")
            metrics[name] = dataclasses.asdict(proof)
    return {"fine_tune_type": config["fine_tune_type"], **metrics}


WRITERS = {"adapter": adapter.export, "fused": fused.export}
"""How each format is written and read back; `EXPORT_FORMATS` of the schema names the same.

A writer takes models/base, the adapter and the folder to write. It returns the model as another
program reads it, its weights not read yet, and whether the format rounds float32.
"""


def open_tuned(base: Path, trained: Path) -> nn.Module:
    """Build base and adapter in float32; a weight is read when it is needed."""
    model = open_base(base, "float32").model
    load_adapter(model, trained)
    model.set_dtype(mx.float32)  # weights that were trained in 16 bits stand in for the base's
    return model

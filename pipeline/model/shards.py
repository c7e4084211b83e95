"""Weights written one by one, into the files that mlx-lm's `save_model` would write.

`save_model` computes a whole file of up to 5 GB before it writes it. Here a weight is computed,
written and dropped, so that no more than one is in memory. The bytes are the same.
"""

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.device import mx, nn, tree_map
from pipeline.model.network import upstream
from pipeline.model.network.tree import named_arrays
from pipeline.model.source.folder import INDEX

METADATA = "__metadata__"
LENGTH = "<Q"
"""The number of bytes of the header, which begins a file of safetensors."""


def save_model(folder: Path, model: nn.Module) -> None:
    """Write the weights of a model, and take them out of it.

    Args:
        folder: where model*.safetensors and their index are written; it exists.
        model: its weights may not be computed yet. It has none afterwards.
    """
    weights = named_arrays(model.parameters())
    totals = {
        "total_size": sum(value.nbytes for value in weights.values()),
        "total_parameters": upstream.get_total_parameters(model),
    }
    shards = upstream.make_shards(weights)
    model.update(tree_map(lambda _: mx.array([]), model.parameters()))
    weights.clear()
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        name = name if len(shards) > 1 else "model.safetensors"
        places |= dict.fromkeys(shard, name)
        write_shard(folder / name, shard)
    index = {"metadata": totals, "weight_map": dict(sorted(places.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=4), encoding="utf-8")


def write_shard(path: Path, weights: dict[str, mx.array]) -> None:
    """Write a file of safetensors as MLX would, computing and dropping one tensor after the other.

    Args:
        path: of the file.
        weights: by name; none is left in it afterwards.
    """
    write_in_order(path, weights, header_by_mlx(path, weights))


def write_in_order(path: Path, weights: dict[str, mx.array], header: dict[str, Any]) -> None:
    """Write a file of safetensors, computing and dropping one tensor after the other.

    Args:
        path: of the file.
        weights: by name; none is left in it afterwards.
        header: the file's metadata and the name of each tensor's type, in the order to write.
    """
    types, end = dict(header), 0
    entries: dict[str, Any] = {METADATA: types.pop(METADATA)}
    for name, dtype in types.items():
        value = weights[name]
        start, end = end, end + value.nbytes
        entries[name] = {"data_offsets": [start, end], "dtype": dtype, "shape": list(value.shape)}
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    with path.open("wb") as file:
        file.write(struct.pack(LENGTH, len(text)) + text)
        for name in types:
            write_tensor(file, weights.pop(name))


def header_by_mlx(path: Path, weights: dict[str, mx.array]) -> dict[str, Any]:
    """Return the name of each tensor's type, in the order in which MLX would write the tensors.

    It is the order of a hash table, so MLX is asked: it writes one number of each type and name.

    Args:
        path: where it writes them.
        weights: by name.
    """
    samples = {name: mx.zeros((1,), value.dtype) for name, value in weights.items()}
    mx.save_safetensors(str(path), samples, metadata={"format": "mlx"})
    with path.open("rb") as file:
        (length,) = struct.unpack(LENGTH, file.read(struct.calcsize(LENGTH)))
        header = json.loads(file.read(length))
    metadata = header.pop(METADATA)
    ordered = sorted(header, key=lambda name: header[name]["data_offsets"])
    return {METADATA: metadata} | {name: header[name]["dtype"] for name in ordered}


def write_tensor(file: BinaryIO, value: mx.array) -> None:
    """Compute a tensor and write its bytes."""
    file.write(np.asarray(mx.contiguous(value).reshape(-1).view(mx.uint8)).data)

"""A GGUF file as a Hugging Face folder in float32, made once and kept under `models/.converted`."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import save_file

from pipeline.errors import ModelError, report_problems
from pipeline.external.gguf.architecture import (
    INTERLEAVED,
    ROPE_FACTORS,
    architecture_of,
    config_of,
    reordered,
    tensor_names,
)
from pipeline.external.gguf.header import Header, StoredTensor, read_header
from pipeline.external.gguf.tokenizer import write_tokenizer
from pipeline.external.paths import external
from pipeline.files import (
    FileLock,
    cached_sha256_file,
    json_text,
    new_folder,
    read_json,
    sha256_path,
    write_json,
)

CONVERTED = "models/.converted"
RECORD = "converted.json"
KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
MAX_SHARD_BYTES = 1_000_000_000
"""Of one file of weights, which is in memory while it is made."""
LOCK_SECONDS = 0.2


def converted(path: Path) -> Path:
    """Return the folder of a GGUF file; make it where it is missing or is not what was written.

    Raises:
        ModelError: when the file cannot be read as a model.
    """
    folder = external(CONVERTED) / cached_sha256_file(path)
    if is_whole(folder):
        return folder
    lock = FileLock(folder.with_suffix(".lock"))
    while not lock.acquire():
        time.sleep(LOCK_SECONDS)
    try:
        if not is_whole(folder):
            with new_folder(folder) as partial:
                convert(path, partial)
                write_json(partial / RECORD, record_of(partial))
    finally:
        lock.release()
    return folder


def converter_sha256() -> str:
    """Hash the code that converts."""
    return sha256_path(Path(__file__).parent)


def record_of(folder: Path) -> dict[str, str]:
    """Hash what a folder holds, and the code that made it."""
    files = sorted(file for file in folder.iterdir() if file.name != RECORD)
    hashes = {file.name: cached_sha256_file(file) for file in files}
    return {"converter": converter_sha256(), **hashes}


def is_whole(folder: Path) -> bool:
    """Whether a folder is what this code wrote."""
    try:
        return read_json(folder / RECORD) == record_of(folder)
    except (OSError, ValueError):
        return False


def convert(path: Path, folder: Path) -> None:
    """Write config, tokenizer and weights of a GGUF file, in memory of at most one shard.

    Raises:
        ModelError: when its header is damaged, or holds something that cannot be carried over.
    """
    header = read_header(path)
    architecture_of(header)
    check_kinds(header)
    names = tensor_names(header)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    scaling = tensors.get(ROPE_FACTORS)
    config = config_of(header, None if scaling is None else numbers_of(path, scaling))
    ends = [header.values.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    ids = sorted({index for index in ends if isinstance(index, int)})
    special = {"bos_token_id": header.values.get("tokenizer.ggml.bos_token_id")}
    special["eos_token_id"] = ids[0] if len(ids) == 1 else ids or None
    write_tokenizer(header, folder)
    (folder / "config.json").write_text(json_text({**config, **special}))
    (folder / "generation_config.json").write_text(json_text(special))
    order = (
        {}
        if config["model_type"] not in INTERLEAVED
        else {
            "q_proj": config["num_attention_heads"],
            "k_proj": config["num_key_value_heads"],
        }
    )
    write_shards(
        folder,
        [(names[each.name], each) for each in header.tensors if each.name in names],
        path,
        order,
    )


def check_kinds(header: Header) -> None:
    """Refuse tensors that are packed in a way that is not read.

    Raises:
        ModelError: with every such tensor.
    """
    problems = [
        f"{tensor.name}: {tensor.kind.name}"
        for tensor in header.tensors
        if tensor.kind.name not in KINDS
    ]
    headline = f"model.source={header.path}: these tensors are packed in ways that are not read:"
    report_problems(ModelError, headline, problems, f"Give a file in {', '.join(KINDS)}.")


def numbers_of(path: Path, tensor: StoredTensor) -> np.ndarray:
    """Read the numbers of a tensor, float32."""
    data = np.memmap(path, np.uint8, "r", tensor.offset, (tensor.num_bytes,))
    kind = tensor.kind
    if kind == GGMLQuantizationType.F32:
        return np.frombuffer(data, "<f4").reshape(tensor.shape)
    if kind == GGMLQuantizationType.F16:
        return np.frombuffer(data, "<f2").astype(np.float32).reshape(tensor.shape)
    rows = data.reshape(*tensor.shape[:-1], -1)
    return dequantize(rows, kind).astype(np.float32).reshape(tensor.shape)


def write_shards(
    folder: Path, tensors: list[tuple[str, StoredTensor]], path: Path, order: dict[str, int]
) -> None:
    """Write the weights, file by file, and the index where there are several.

    Args:
        folder: gets the files.
        tensors: each with the name it gets.
        path: of the GGUF file.
        order: number of heads, for each layer whose rows are to be put into another order.
    """
    shards = list(shards_of(tensors))
    weight_map: dict[str, str] = {}
    for index, shard in enumerate(shards, 1):
        file = f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        file = file if len(shards) > 1 else "model.safetensors"
        arrays = {}
        for name, tensor in shard:
            values = numbers_of(path, tensor)
            heads = order.get(name.split(".")[-2])
            arrays[name] = np.ascontiguousarray(reordered(values, heads) if heads else values)
            weight_map[name] = file
        save_file(arrays, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json_text(index))


def shards_of(
    tensors: list[tuple[str, StoredTensor]],
) -> Iterator[list[tuple[str, StoredTensor]]]:
    """Yield the tensors of each file of weights."""
    shard, num_bytes = [], 0
    for name, tensor in tensors:
        size = 4 * int(np.prod(tensor.shape))
        if shard and num_bytes + size > MAX_SHARD_BYTES:
            yield shard
            shard, num_bytes = [], 0
        shard.append((name, tensor))
        num_bytes += size
    yield shard

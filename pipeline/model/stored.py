"""The weights of a fused model as the files of its base have them: names, shapes, types, places."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.device import mx, nn
from pipeline.errors import ModelError, report_problems
from pipeline.model.file_tensors import HEAD, ONLY_ADAPTER, by_stack, file_tensors, tensors_read
from pipeline.model.network import upstream
from pipeline.model.network.base import open_base, read_manifest, unchanged_files, weight_folder
from pipeline.model.network.tree import named_arrays
from pipeline.model.shards import METADATA, write_in_order

HALF, WIDE = {"F16": mx.float16, "BF16": mx.bfloat16}, {"F32": mx.float32}
PACKING = (".scales", ".biases")


@dataclass(frozen=True)
class Place:
    """Where a tensor stands in the base: number of the file, name of its type, shape."""

    file: int
    dtype: str
    shape: tuple[int, ...]


class StoredTensors:
    """The tensors that the files of a fused model hold."""

    def __init__(self, model: nn.Module, base: Path) -> None:
        """Find how the tensors come from the arrays of a model.

        Args:
            model: in float32, without adapters, not quantised; its weights need not be read yet.
            base: what the weights stage wrote.

        Raises:
            ModelError: when they cannot be computed from the arrays.
        """
        arrays = named_arrays(model.parameters())
        manifest = read_manifest(base)
        files = manifest.get("unpacked", manifest)["files"]
        self.places = with_head(plain_places(files, arrays), arrays)
        shapes = {name: place.shape for name, place in self.places.items()}
        self.read = tensors_read(model, shapes, arrays)
        self.tensors = file_tensors(model, shapes, arrays)
        unread = {name: place for name, place in self.places.items() if name not in self.read}
        refuse_packed(unread)
        self.copied = copied(base, manifest, set(unread))

    @property
    def rounded(self) -> bool:
        """Whether a weight has fewer bits in the file than in the model."""
        return any(self.places[name].dtype in HALF for name in self.read)

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the files, one tensor at a time; return their index. It can be done once."""
        count, index = 1 + max(place.file for place in self.places.values()), {}
        for number in range(count):
            name = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
            name = name if count > 1 else "model.safetensors"
            index |= dict.fromkeys(self.write_file(number, folder / name), name)
        sizes = [self.places[name] for name in index]
        total = sum(size_of(place) for place in sizes)
        return {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}

    def write_file(self, number: int, path: Path) -> list[str]:
        """Write one file; return the names in it."""
        inside = {name: place for name, place in self.places.items() if place.file == number}
        weights = {
            name: self.tensors.pop(name).astype((HALF | WIDE)[inside[name].dtype])
            if name in self.read
            else self.copied.pop(name)
            for name in by_stack(inside)
            if name in self.read or not name.endswith(HEAD)  # a tied head is the embedding
        }
        names = list(weights)
        header = {name: inside[name].dtype for name in names}
        write_in_order(path, weights, {METADATA: {"format": "mlx"}, **header})
        return names


def fused_notice(base: Path) -> str | None:
    """Describe why a base could not be exported fused; None where it can.

    Args:
        base: what the weights stage wrote.
    """
    model = open_base(base, "float32").model
    upstream.dequantize_model(model)
    try:
        StoredTensors(model, base)
    except ModelError as error:
        return f"export.formats=[fused] will be refused for this base. {error}"
    return None


def copied(base: Path, manifest: dict[str, Any], names: set[str]) -> dict[str, mx.array]:
    """Return tensors as the files of a base have them, not read yet.

    Args:
        base: the folder of the manifest.
        manifest: of a base, whose tensors may be packed; those that it was made from are meant.
        names: of the tensors.

    Raises:
        ModelError: when a file is gone or has changed.
    """
    if not names:
        return {}
    plain = manifest.get("unpacked", manifest)
    folder = weight_folder(base, manifest) if plain is manifest else Path(plain["folder"])
    found: dict[str, mx.array] = {}
    for path in unchanged_files(base, folder, plain["files"]):
        weights = mx.load(str(path))
        assert isinstance(weights, dict)
        found |= {name: weights[name] for name in names & weights.keys()}
    return found


def plain_places(files: list[dict[str, Any]], arrays: dict[str, mx.array]) -> dict[str, Place]:
    """List the tensors of a base; what is packed into integers is named as it is unpacked."""
    tables = [file["tensors"] for file in files]
    together = {name: entry["dtype"] for table in tables for name, entry in table.items()}
    packed = {stem(name) for name in together if name.endswith(".scales")}
    return {
        name: Place(
            file=number,
            dtype=unpacked_type(together, name),
            shape=arrays[name].shape if stem(name) in packed else tuple(entry["shape"]),
        )
        for number, table in enumerate(tables)
        for name, entry in table.items()
        if not (name.endswith(PACKING) and stem(name) in packed)
    }


def unpacked_type(types: dict[str, str], name: str) -> str:
    """Return the type of a tensor: that of its scales where it is packed, bfloat16 if theirs is."""
    scales = types.get(f"{stem(name)}.scales")
    if scales is None:
        return types[name]
    return scales if scales in HALF | WIDE else "BF16"


def stem(name: str) -> str:
    """Return the name of the layer that a tensor belongs to."""
    return name.rpartition(".")[0]


def with_head(places: dict[str, Place], arrays: dict[str, mx.array]) -> dict[str, Place]:
    """Add the head that training made a separate matrix, in the type of the embedding."""
    head = next((name for name in arrays if name.endswith(HEAD)), None)
    if head is None or any(name.endswith(HEAD) for name in places):
        return places
    shape = arrays[head].shape
    table = next(place for place in places.values() if place.shape == shape)
    return {**places, head: table}


def refuse_packed(unread: dict[str, Place]) -> None:
    """Refuse tensors that are not read and cannot be copied, as nothing would tell their packing.

    Raises:
        ModelError: with each of them.
    """
    problems = [
        f"{name}: {place.dtype}" for name, place in unread.items() if place.dtype not in HALF | WIDE
    ]
    headline = "The model does not read these tensors of its base, which are packed:"
    report_problems(ModelError, headline, problems, ONLY_ADAPTER)


def size_of(place: Place) -> int:
    """Return the bytes of a tensor."""
    count = 1
    for length in place.shape:
        count *= length
    return count * (HALF | WIDE)[place.dtype].size

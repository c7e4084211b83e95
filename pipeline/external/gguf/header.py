"""The header of a GGUF file: its metadata and its table of tensors.

The layout is described in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Readers that
trust the counts, lengths and offsets of a header can be made to read beyond the file or to fill the
memory, and the `gguf` package's takes 20 µs for each word of a vocabulary. So every length is
compared here with the bytes that are left, before they are read.
"""

import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from pipeline.errors import ModelError

MAGIC, VERSIONS = b"GGUF", (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_STRING_BYTES = 1 << 20
"""More than the longest chat template."""
MAX_ITEMS = 600_000
"""Of all lists together; words, types and merges of Llama 3 are 540,000."""
MAX_HEADER_BYTES = 1 << 26
MAX_ENTRIES, MAX_DIMENSIONS = 1 << 16, 4
NUMBERS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.BOOL: "<u1",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
}


class HeaderError(ValueError):
    """What is wrong with a header, and at which byte."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of the file.

    Attributes:
        shape: as in NumPy, slowest dimension first; the file has it the other way round.
        kind: how its numbers are packed.
        offset: of its first byte in the file.
        num_bytes: that it takes there.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    num_bytes: int


@dataclass(frozen=True)
class Header:
    """What a GGUF file states before its numbers begin."""

    path: Path
    values: dict[str, Any]
    tensors: tuple[StoredTensor, ...]


def read_header(path: Path) -> Header:
    """Read and check the header of a GGUF file.

    Raises:
        ModelError: when the file is no GGUF of version 2 or 3, or its header is damaged.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return HeaderReader(path, data).read()
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model.source={path}: is no readable GGUF file ({error}).\n"
            "Fetch it again; its size may show where the transfer broke off."
        ) from error


class HeaderReader:
    """Reads a header from its first byte to its last."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.position, self.num_items = path, data, 0, 0
        self.size = min(len(data), MAX_HEADER_BYTES)

    @property
    def place(self) -> str:
        """Where the reader stands, for a message."""
        return f"at byte {self.position}"

    def read(self) -> Header:
        """Read everything.

        Raises:
            HeaderError: when a count, a length, a type or an offset cannot be right.
        """
        if self.take(4, "the magic bytes") != MAGIC:
            raise HeaderError("it does not begin with GGUF")
        version = self.number("<u4")
        if version not in VERSIONS:
            raise HeaderError(f"version {version}; 2 and 3 are read, least significant byte first")
        num_tensors, num_values = self.number("<u8"), self.number("<u8")
        self.require(num_tensors <= MAX_ENTRIES, f"{num_tensors} tensors")
        self.require(num_values <= MAX_ENTRIES, f"{num_values} values")
        values: dict[str, Any] = {}
        for _ in range(num_values):
            key = self.string()
            self.require(key not in values, f"{key!r} stands there twice")
            values[key] = self.value(self.value_type())
        entries = [self.tensor_entry() for _ in range(num_tensors)]
        start = self.data_start(values.get("general.alignment", DEFAULT_ALIGNMENT))
        tensors = tuple(self.stored(*entry, start) for entry in entries)
        self.require(len({each.name for each in tensors}) == num_tensors, "two tensors of one name")
        return Header(self.path, values, tensors)

    def require(self, condition: bool, problem: str) -> None:
        """Refuse the header unless a condition holds.

        Raises:
            HeaderError: with the problem and the byte at which it shows.
        """
        if not condition:
            raise HeaderError(f"{problem}, {self.place}")

    def take(self, num_bytes: int, what: str) -> bytes:
        """Return the next bytes."""
        start, end = self.position, self.position + num_bytes
        if end > self.size:
            left = self.size - start
            raise HeaderError(f"{what} takes {num_bytes} bytes and {left} are left, {self.place}")
        self.position = end
        return self.data[start:end]

    def number(self, kind: str) -> Any:  # noqa: ANN401
        """Return the next number, of a NumPy type."""
        return np.frombuffer(self.take(int(kind[2]), "a number"), kind).item()

    def string(self) -> str:
        """Return the next string; bytes that are not UTF-8 are replaced."""
        return self.strings(1)[0]

    def strings(self, count: int) -> list[str]:
        """Return the next strings, in one loop: a vocabulary has hundreds of thousands."""
        found, data = [], self.data
        for _ in range(count):
            start = self.position + 8
            length = int.from_bytes(data[self.position : start], "little")
            end = start + length
            if length > MAX_STRING_BYTES or end > self.size:
                left = max(0, self.size - start)
                raise HeaderError(f"a string of {length} bytes, {left} are left, {self.place}")
            found.append(data[start:end].decode("utf-8", errors="replace"))
            self.position = end
        return found

    def value_type(self) -> GGUFValueType:
        """Return the next type of a value."""
        number = self.number("<u4")
        self.require(number in list(GGUFValueType), f"a value of the unknown type {number}")
        return GGUFValueType(number)

    def value(self, kind: GGUFValueType) -> Any:  # noqa: ANN401
        """Return the next value: a number, a boolean, a string, or a list of one of them."""
        if kind == GGUFValueType.STRING:
            return self.string()
        if kind == GGUFValueType.ARRAY:
            return self.array()
        number = self.number(NUMBERS[kind])
        return bool(number) if kind == GGUFValueType.BOOL else number

    def array(self) -> list[Any]:
        """Return the next list."""
        kind, length = self.value_type(), self.number("<u8")
        self.require(kind != GGUFValueType.ARRAY, "a list of lists")
        self.num_items += length
        self.require(self.num_items <= MAX_ITEMS, f"lists of more than {MAX_ITEMS:,} items")
        if kind == GGUFValueType.STRING:
            return self.strings(length)
        numbers = NUMBERS[kind]
        return np.frombuffer(self.take(length * int(numbers[2]), "a list"), numbers).tolist()

    def tensor_entry(self) -> tuple[str, tuple[int, ...], int, int]:
        """Return name, shape, type and offset of the next tensor."""
        name, num_dimensions = self.string(), self.number("<u4")
        self.require(num_dimensions <= MAX_DIMENSIONS, f"{name!r} has {num_dimensions} dimensions")
        shape = tuple(self.number("<u8") for _ in range(num_dimensions))[::-1]
        return name, shape, self.number("<u4"), self.number("<u8")

    def data_start(self, alignment: Any) -> int:  # noqa: ANN401
        """Return the byte at which the numbers begin."""
        fits = isinstance(alignment, int) and alignment > 0 and alignment & (alignment - 1) == 0
        self.require(fits, f"general.alignment={alignment!r}, which is no power of two")
        return -(-self.position // alignment) * alignment

    def stored(
        self, name: str, shape: tuple[int, ...], number: int, offset: int, start: int
    ) -> StoredTensor:
        """Check where a tensor lies; `offset` counts from where the numbers start."""
        self.require(
            number in list(GGMLQuantizationType), f"{name!r} has the unknown type {number}"
        )
        kind = GGMLQuantizationType(number)
        block, block_bytes = GGML_QUANT_SIZES[kind]
        self.require(bool(shape) and min(shape) > 0, f"{name!r} has the shape {shape}")
        self.require(shape[-1] % block == 0, f"{name!r}: rows of {shape[-1]} in blocks of {block}")
        num_bytes = math.prod(shape) // block * block_bytes
        self.require(
            start + offset + num_bytes <= len(self.data),
            f"{name!r} ends at byte {start + offset + num_bytes} of {len(self.data)}",
        )
        return StoredTensor(name, shape, kind, start + offset, num_bytes)

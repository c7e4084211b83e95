"""Headers of GGUF files: what the writer of the `gguf` package writes, and crafted ones."""

import contextlib
import struct
import time
import tracemalloc

import numpy as np
import pytest
from gguf import GGUFReader

from pipeline.errors import ModelError
from pipeline.external.gguf.header import (
    MAX_ENTRIES,
    MAX_ITEMS,
    MAX_STRING_BYTES,
    read_header,
)


def u32(*numbers):
    return struct.pack(f"<{len(numbers)}I", *numbers)


def u64(*numbers):
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def text(string):
    return u64(len(string)) + string.encode()


def start(num_tensors, num_values, version=3):
    return b"GGUF" + u32(version) + u64(num_tensors, num_values)


def tensor(name="t", shape=(4,), kind=0, offset=0):
    return text(name) + u32(len(shape)) + u64(*shape) + u32(kind) + u64(offset)


def test_it_is_what_the_reader_of_the_package_reads(gguf_file):
    path = gguf_file("qwen3", kind="Q8_0")
    header, reader = read_header(path), GGUFReader(path)
    assert [each.name for each in header.tensors] == [each.name for each in reader.tensors]
    for ours, theirs in zip(header.tensors, reader.tensors, strict=True):
        assert ours.shape == tuple(reversed(theirs.shape.tolist()))
        assert (ours.kind, ours.offset) == (theirs.tensor_type, theirs.data_offset)
        assert ours.num_bytes == theirs.n_bytes
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert header.values == {key: field.contents() for key, field in fields.items()}


CRAFTED = {
    "a string that is too long": (
        start(0, 1) + text("k") + u32(8) + text("x" * (MAX_STRING_BYTES + 1)) + bytes(64),
        "a string of 1048577 bytes, 1048641 are left",
    ),
    "empty": (b"", "cannot mmap an empty file"),
    "another kind of file": (b"PK\x03\x04" * 9, "it does not begin with GGUF"),
    "cut in the counts": (start(0, 0)[:-3], "a number takes 8 bytes and 5 are left, at byte 16"),
    "an old version": (start(0, 0, version=1), "version 1; 2 and 3 are read"),
    "the other byte order": (b"GGUF" + struct.pack(">I", 3) + bytes(16), "version 50331648"),
    "too many tensors": (start(MAX_ENTRIES + 1, 0), "65537 tensors, at byte 24"),
    "endless values": (start(0, 2**63), "9223372036854775808 values"),
    "a string beyond the end": (start(0, 1) + u64(1000), "a string of 1000 bytes, 0 are left"),
    "a huge string": (start(0, 1) + u64(2**62) + b"x", "a string of 4611686018427387904 bytes"),
    "a value of no type": (start(0, 1) + text("k") + u32(13), "a value of the unknown type 13"),
    "a key twice": (start(0, 2) + 2 * (text("k") + u32(4, 1)), "'k' stands there twice"),
    "lists in lists": (start(0, 1) + text("k") + u32(9, 9) + u64(1), "a list of lists"),
    "a list of a thousand million": (
        start(0, 1) + text("k") + u32(9, 0) + u64(10**9),
        f"lists of more than {MAX_ITEMS:,} items",
    ),
    "a list beyond the end": (
        start(0, 1) + text("k") + u32(9, 10) + u64(1000),
        "a list takes 8000 bytes and 0 are left",
    ),
    "many dimensions": (start(1, 0) + text("t") + u32(5), "'t' has 5 dimensions"),
    "no dimension": (start(1, 0) + tensor(shape=()), r"'t' has the shape \(\)"),
    "a dimension of 0": (start(1, 0) + tensor(shape=(4, 0)), r"'t' has the shape \(0, 4\)"),
    "a kind of no name": (start(1, 0) + tensor(kind=99), "'t' has the unknown type 99"),
    "half a block": (start(1, 0) + tensor(shape=(33,), kind=8), "'t': rows of 33 in blocks of 32"),
    "numbers beyond the end": (start(1, 0) + tensor(), "'t' ends at byte 80 of 57"),
    "an offset that wraps": (
        start(1, 0) + tensor(offset=2**64 - 16) + bytes(64),
        "'t' ends at byte 18446744073709551680 of 121",
    ),
    "a size that wraps": (
        start(1, 0) + tensor(shape=(2**32, 2**32)) + bytes(64),
        "'t' ends at byte 73786976294838206560 of 129",
    ),
    "an alignment of 0": (
        start(0, 1) + text("general.alignment") + u32(4, 0),
        "general.alignment=0, which is no power of two",
    ),
    "an alignment that is a word": (
        start(0, 1) + text("general.alignment") + u32(8) + text("x"),
        "general.alignment='x'",
    ),
    "one name twice": (start(2, 0) + 2 * tensor() + bytes(99), "two tensors of one name"),
}


@pytest.mark.parametrize(("data", "problem"), CRAFTED.values(), ids=CRAFTED)
def test_a_crafted_header_is_refused_with_its_place(tmp_path, data, problem):
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    match = (
        rf"(?s)model.source=.*bad.gguf: is no readable GGUF file \(.*({problem}).*Fetch it again"
    )
    with pytest.raises(ModelError, match=match):
        read_header(path)


def test_every_cut_of_a_header_is_refused(gguf_file, tmp_path):
    whole = gguf_file()
    header = read_header(whole)
    data, path = whole.read_bytes(), tmp_path / "cut.gguf"
    last = max(header.tensors, key=lambda each: each.offset)
    for length in np.linspace(1, last.offset + last.num_bytes - 1, 97).astype(int):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError, match="is no readable GGUF file"):
            read_header(path)


LARGE = {
    "as many words as are read": start(0, 1)
    + text("k")
    + u32(9, 8)
    + u64(MAX_ITEMS)
    + text("") * MAX_ITEMS,
    "strings as long as are read": start(0, 99)
    + (text("k") + u32(8) + text("x" * MAX_STRING_BYTES)),
}


@pytest.mark.parametrize("data", LARGE.values(), ids=LARGE)
def test_a_crafted_header_costs_little(tmp_path, data):
    """Time of the processor: that of the clock depends on what else runs."""
    path = tmp_path / "large.gguf"
    path.write_bytes(data)
    began = time.process_time()
    with contextlib.suppress(ModelError):
        read_header(path)
    assert time.process_time() - began < 1
    tracemalloc.start()
    with contextlib.suppress(ModelError):
        read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6

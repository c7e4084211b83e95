"""Lines come whole and numbered, in constant memory, whatever their ends are."""

import json
import tracemalloc
from collections import Counter
from itertools import chain

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.data.rows.fields import RowError
from pipeline.data.sources.jsonl import JsonlRows, has_all, iterate_lines, parse_line
from pipeline.data.sources.source import Splitter
from pipeline.errors import DataError

lines_of_bytes = st.lists(st.binary(max_size=40).map(lambda line: line.translate(None, b"\r\n")))


def read(file, max_line_bytes=64):
    counts = Counter()
    return list(iterate_lines(file, max_line_bytes, counts)), +counts


@settings(deadline=None)
@given(lines_of_bytes, st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.booleans())
def test_lines_are_what_was_written(tmp_path_factory, lines, newline, bom, ends):
    lines = [line for line in lines if not line.startswith(b"\xef\xbb\xbf")]
    file = tmp_path_factory.getbasetemp() / "lines.jsonl"
    body = newline.join([*lines, b"last"]) + (newline if ends else b"")
    file.write_bytes((b"\xef\xbb\xbf" if bom else b"") + body)
    found, counts = read(file)
    assert found == list(enumerate([*lines, b"last"], start=1))
    assert counts["bom_files"] == bom
    assert counts["missing_final_newlines"] == (not ends)
    assert counts["crlf_lines"] == (body.count(b"\r\n"))


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 10, 11, 3 << 20])
def test_a_long_line_comes_cut_and_the_next_one_whole(tmp_path, size, newline):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"a" * size + newline + (b"next\n" if newline else b""))
    found, _ = read(file, max_line_bytes=8)
    expected = [b"a" * min(size, 9), b"next"] if newline else [b"a" * min(size, 9)] * (size > 0)
    assert [line for _, line in found] == expected


def test_an_empty_file_has_no_lines(tmp_path):
    (tmp_path / "rows.jsonl").touch()
    assert read(tmp_path / "rows.jsonl") == ([], Counter())


def test_memory_does_not_grow_with_the_line(tmp_path):
    file = tmp_path / "rows.jsonl"
    with file.open("wb") as stream:
        for _ in range(32):
            stream.write(b"x" * (1 << 20))
    tracemalloc.start()
    found, _ = read(file, max_line_bytes=1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [len(line) for _, line in found] == [1001]
    assert peak < 4 << 20


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"gone\.jsonl cannot be read: No such file"):
        read(tmp_path / "gone.jsonl")


def test_files_are_divided_in_their_order_by_their_size(tmp_path):
    for name, size in (("a", 60), ("b", 1), ("c", 19), ("d", 20), ("e", 0)):
        (tmp_path / f"{name}.jsonl").write_text("x" * size)
    source = JsonlRows("rows", tmp_path, Splitter(0.1, 0.1), 99)
    assert source.total_bytes() == 100
    divided = {
        number: [[file.stem for file in part.files()] for part in source.divided(number)]
        for number in (1, 2, 3, 9)
    }
    assert divided[1] == [["a", "b", "c", "d", "e"]]
    assert divided[2] == [["a"], ["b", "c", "d", "e"]]
    for parts in divided.values():
        assert [*chain.from_iterable(parts)] == ["a", "b", "c", "d", "e"]


@settings(deadline=None)
@given(
    st.lists(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=8),
        max_size=4,
    )
)
@example(2**70 + 1)
@example({"text": "a"})
def test_a_line_is_its_json(value):
    for ensure_ascii in (True, False):
        for row in (value, {"text": value}):
            line = json.dumps(row, ensure_ascii=ensure_ascii).encode()
            for dressed in (line, b" " + line, line + b"\t", b" %s " % line):
                assert parse_line(dressed, 1 << 20) == row


@given(st.dictionaries(st.text('"\\\\ab'), st.text('"\\\\ab'), min_size=1))
def test_an_object_of_strings_has_all_its_keys_unless_backslashes_are_escaped(value):
    line = json.dumps(value).encode()
    assert has_all(value, line) == (b"\\\\" not in line)
    key = next(iter(value))
    twice = line[:-1] + b", " + json.dumps({key: "b"}).encode()[1:]
    assert not has_all({**value, key: "b"}, twice)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "invalid JSON: Expecting property name"),
        (b'{"text": "a"} {"text": "b"}', "invalid JSON: Extra data"),
        (b'{"text": "a"}}', "invalid JSON: Extra data"),
        (b"", "invalid JSON: Expecting value"),
        (b'{"text": "a"', "invalid JSON: Expecting ',' delimiter"),
        (b'{"x": NaN}', "invalid JSON: NaN is no JSON number"),
        (b"[-Infinity]", "invalid JSON: -Infinity is no JSON number"),
        (b'{"x": [1e400]}', "invalid JSON: 1e400 is too large for a number"),
        (b'{"text": "a", "text": "b"}', "the key 'text' stands twice in one object"),
        (b'{"text": "a", "text": "\\\\"}', "the key 'text' stands twice in one object"),
        (b'{"a": "\\\\", "a": "\\\\", "a": "\\\\", "a": "\\\\", "a": "b"}', "the key 'a' stands"),
        (b'{"x": {"a": 1, "a": 1}}', "the key 'a' stands twice in one object"),
        (b"1" * 5000, "invalid JSON: Exceeds the limit"),
        (b"[" * 200_000, "invalid JSON: nested too deeply"),
        (b'{"text": "\xff"}', "invalid UTF-8 at byte 10: invalid start byte"),
        ('{"text": "a"}'.encode("utf-16-le"), "NUL byte; the file may be UTF-16"),
        (b"x" * 200_001, "the line is longer than data.max_line_bytes=200000"),
    ],
)
def test_bad_lines(line, message):
    with pytest.raises(RowError, match=message):
        parse_line(line, 200_000)

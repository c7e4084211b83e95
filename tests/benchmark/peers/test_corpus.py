"""The input of all programs: a tokenizer, a model and rows, made for each comparison."""

import pytest

from pipeline.benchmark.peers.corpus import find_corpus, source_passages
from pipeline.errors import DataError


def test_passages_of_source_code_are_short_and_differ():
    found = [text for text, _ in zip(source_passages(), range(200), strict=False)]
    assert len(set(found)) == 200
    assert all(100 <= len(text) <= 600 for text in found)


@pytest.mark.parametrize("line", ["", "{", '{"prompt": "x"}', "[]"])
def test_a_folder_without_text_rows_is_refused(tmp_path, line):
    if line:
        (tmp_path / "train.jsonl").write_text(line)
    with pytest.raises(DataError, match=r"benchmark\.peers\.rows: .*train.jsonl cannot be used"):
        find_corpus(str(tmp_path))

"""Rows printed as the model sees them."""

import dataclasses

import numpy as np
import pytest

from pipeline.data.preparation.show import Piece, marked, pieces_of, show_rows
from pipeline.data.tokenize.document import Encoded
from pipeline.data.tokenize.tokenizer import load_tokenizer
from pipeline.errors import ConfigError, DataError
from tests.support.prepared import SETTINGS, sentences, texts, with_template, write_rows

CHAT = [
    {"role": "user", "content": "a cat"},
    {"role": "assistant", "content": "the mat\x1b[31m"},
    {"role": "user", "content": "a dog"},
    {"role": "assistant", "content": "the\nhat", "weight": 0.5},
]


@pytest.fixture
def settings(model, tmp_path):
    """Settings for rows in a file."""

    def of(rows, **changes):
        path = write_rows(tmp_path / "rows.jsonl", rows)
        return dataclasses.replace(SETTINGS, **{"path": path, "tokenizer_source": model, **changes})

    return of


def test_a_conversation_shows_what_is_read_learnt_and_closing(settings, model, tmp_path, capsys):
    chat = with_template(model, tmp_path / "chat")
    rows = [{"messages": CHAT}, *texts("the cat")]
    show_rows(settings(rows, max_seq_len=200, tokenizer_source=chat), "1")
    legend, head, *body = capsys.readouterr().out.splitlines()
    assert legend == "read as context, ⟦learnt⟧, ⟨learnt, and closes an answer⟩"
    assert head.startswith("rows.jsonl, line 1 (")
    assert " learnt, weight 0.5 to 1" in head
    assert "\n".join(body) == (
        "<|user|>a cat<eos><|assistant|>⟦the mat\\x1b[31m⟧⟨<eos>⟩"
        "<|user|>a dog<eos><|assistant|>⟦the\nhat⟧⟨<eos>⟩"
    )


def test_texts_of_each_answer_apart(settings, model, tmp_path, capsys):
    chat = with_template(model, tmp_path / "chat")
    choices = {"turns": "separate", "max_seq_len": 200, "tokenizer_source": chat}
    show_rows(settings([{"messages": CHAT}], **choices), "9")
    out = capsys.readouterr().out
    assert "document 1 of 2: " in out
    assert "document 2 of 2: " in out
    assert out.count("⟦") == 3  # one in the legend


def test_as_many_rows_as_asked_for_and_as_the_model_takes_them(settings, capsys):
    show_rows(settings(texts(*sentences(9)), max_seq_len=8), "2")
    out = capsys.readouterr().out
    assert out.count("8 tokens, 7 learnt") == 2
    show_rows(settings(texts(*sentences(9)), tokenizer_source=None), "1")
    assert "⟨<eos>⟩" in capsys.readouterr().out


def test_bad_rows_and_numbers_are_refused(settings, capsys):
    with pytest.raises(DataError, match="line 1"):
        show_rows(settings([{"text": 3}]), "1")
    for wrong in ("0", "-1", "x", "²"):
        with pytest.raises(ConfigError, match=f"--show {wrong}: must be a number of rows"):
            show_rows(settings(texts("a")), wrong)


def test_a_letter_of_two_tokens_is_whole(model):
    tokenizer = load_tokenizer(model)
    ids = tokenizer.backend_tokenizer.encode("a é", add_special_tokens=False).ids
    mask = np.array([False] * (len(ids) - 1) + [True])
    pieces = pieces_of(Encoded(np.array(ids, np.int32), mask), tokenizer)
    assert "".join(piece.text for piece in pieces) == "a é"
    assert pieces[-1] == Piece("é", "learnt")


def test_colours_replace_brackets():
    pieces = [Piece("a", "read"), Piece("b", "learnt"), Piece("c", "closing")]
    assert marked(pieces, in_colour=True).plain == "abc"
    assert {str(span.style) for span in marked(pieces, True).spans} > {"green"}
    assert marked(pieces, in_colour=False).plain == "a⟦b⟧⟨c⟩"

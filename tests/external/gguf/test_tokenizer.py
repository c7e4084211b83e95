"""Tokenizers of GGUF files, against those that they were written from."""

import re
import unicodedata

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from pipeline.data.tokenize.tokenizer import load_tokenizer
from pipeline.errors import ModelError
from pipeline.external.gguf.header import read_header
from pipeline.external.gguf.tokenizer import PRE_TOKENIZERS, write_tokenizer
from tests.external.gguf.conftest import TEXTS, trained

HARD = [
    "",
    " ",
    "  two  spaces ",
    "tabs\tand\r\nlines\n\n\nof text",
    "12 345 67890 1,000,000.5e-3",
    "don't DON'T we'LL it's 'tis",
    "naïve cafe\u0301 é Ⅷ ½ ०१२ \u3000 \u200b",
    "文字列 и буквы 🙂🏽 אבג",
    "a<|im_end|>b<s> c <|endoftext|><|im_",
    *TEXTS[:3],
]


@pytest.fixture
def rebuilt(gguf_file, tmp_path):
    """Read back what `gguf_file` wrote, as the pipeline loads it."""

    def read(**options):
        write_tokenizer(read_header(gguf_file(**options)), tmp_path / "model")
        return load_tokenizer(tmp_path / "model")

    return read


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_words_of_bytes_are_those_of_the_tokenizer_they_were_written_from(rebuilt, pre):
    ours, theirs = rebuilt(pre=pre), PreTrainedTokenizerFast(tokenizer_object=trained(pre))
    for text in HARD:
        text = unicodedata.normalize("NFC", text) if pre == "qwen2" else text
        assert ids(ours, text) == ids(theirs, text), text
        assert ours.decode(ids(ours, text)) == text


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["DON", "'", "T", "Ġ12345", "Ġ,", "ĊĊ", "Ġx"]),
        ("smollm", ["DON", "'", "T", "Ġ", "1", "2", "3", "4", "5", "Ġ,", "ĊĊ", "Ġx"]),
        ("qwen2", ["DON", "'T", "Ġ", "1", "2", "3", "4", "5", "Ġ,ĊĊ", "Ġx"]),
        ("llama-bpe", ["DON", "'T", "Ġ", "123", "45", "Ġ,ĊĊ", "Ġx"]),
    ],
)
def test_text_is_cut_as_the_tokenizer_of_that_name_cuts_it(pre, pieces):
    cut = PRE_TOKENIZERS[pre]().pre_tokenize_str("DON'T 12345 ,\n\n x")
    assert [piece for piece, _ in cut] == pieces


@pytest.mark.parametrize(("pre", "is_whole"), [("llama-bpe", True), ("gpt-2", False)])
def test_a_word_of_the_vocabulary_that_no_merges_lead_to(rebuilt, words, pre, is_whole):
    more = {"tokens": [*words[pre]["tokens"], "zqx"], "types": [*words[pre]["types"], 1]}
    found = ids(rebuilt(pre=pre, words={**words[pre], **more}), "zqx")
    assert (found == [len(more["tokens"]) - 1]) is is_whole


def test_a_piece_that_is_marked_as_unused_is_in_no_text(rebuilt, pieces):
    index = pieces["tokens"].index("▁the")
    types = [*pieces["types"]]
    types[index] = 5
    assert ids(rebuilt(words=pieces), "the") == [index]
    assert index not in ids(rebuilt(words={**pieces, "types": types}), "the")


def test_qwen2_composes_letters_and_accents(rebuilt):
    tokenizer = rebuilt(pre="qwen2")
    assert ids(tokenizer, "e\u0301") == ids(tokenizer, "\u00e9")


def test_pieces_are_those_of_the_tokenizer_they_were_written_from(rebuilt, stories, pieces):
    ours = rebuilt(words=pieces)
    for text in HARD[3:]:
        text = text.replace("<s> ", "<s>")  # there it takes one space, as llama.cpp does, or none
        assert ids(ours, text) == stories.encode(text, add_special_tokens=False).ids, text
        assert ours.decode(ids(ours, text)) == text or "<" in text
    assert ours.encode("a")[0] == ours.bos_token_id == 1  # as all of SentencePiece's do
    assert ours.eos_token_id == 2


def test_without_a_space_at_the_start_there_is_none(rebuilt, pieces):
    ours = rebuilt(words=pieces, change=lambda writer: writer.add_add_space_prefix(False))
    assert ours.convert_ids_to_tokens(ids(ours, "the"))[0][0] != "▁"
    assert ours.decode(ids(ours, " the end")) == " the end"


@pytest.mark.parametrize(
    ("pre", "added", "begins"),
    [
        ("gpt-2", None, False),
        ("gpt-2", True, True),
        ("llama-bpe", None, True),
        ("llama-bpe", False, False),
    ],
)
def test_a_text_begins_as_the_file_has_it(rebuilt, pre, added, begins):
    def change(writer):
        if added is not None:
            writer.add_add_bos_token(added)

    tokenizer = rebuilt(pre=pre, change=change)
    assert (tokenizer.encode("a")[0] == 1) is begins


def test_template_and_roles_are_carried_over(rebuilt):
    def change(writer):
        writer.add_chat_template("{{ messages[0].content }}<|im_end|>")
        writer.add_pad_token_id(0)

    tokenizer = rebuilt(change=change)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text == "Hi<|im_end|>"
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "<|im_end|>")
    assert tokenizer.pad_token == "<|endoftext|>"
    assert ids(tokenizer, "Hi<|im_end|>")[-1] == 2


def test_user_defined_tokens_are_found_and_kept_in_text(rebuilt, words):
    changed = dict(words["gpt-2"])
    changed["types"] = [4 if kind == 3 else kind for kind in changed["types"]]
    tokenizer = rebuilt(words=changed)
    assert ids(tokenizer, "a<|im_end|>")[-1] == 2
    assert tokenizer.decode(ids(tokenizer, "a<|im_end|>"), skip_special_tokens=True)[0] == "a"
    state = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    assert not state.get_added_tokens_decoder()[0].special


REFUSED = [
    ({"pre": "tekken"}, {}, "tokenizer.ggml.pre='tekken', and gpt-2, smollm, qwen2, llama-bpe are"),
    ({}, {"model": "bert"}, "tokenizer.ggml.model='bert', and gpt2, llama are known"),
    ({}, {"merges": ["a b c"]}, "the merge 'a b c' does not make a token of two tokens"),
    ({}, {"merges": ["ab"]}, "the merge 'ab' does not make"),
    ({}, {"tokens": ["a", "a", "b"], "types": [1, 1, 1]}, "1 tokens stand in it twice"),
    ({}, {"types": [1, 1]}, "2 token types for 393 tokens"),
    ({}, {"model": "llama"}, "there is not one score for each token"),
]


@pytest.mark.parametrize(("options", "changes", "problem"), REFUSED)
def test_what_cannot_be_read_is_refused(gguf_file, tmp_path, words, options, changes, problem):
    header = read_header(gguf_file(words={**words["gpt-2"], **changes}, **options))
    match = (
        rf"model.source=.*model.gguf: its tokenizer cannot be read: {re.escape(problem)}"
        r"(?s:.*)Give the model's Hugging Face folder, which has a tokenizer.json."
    )
    with pytest.raises(ModelError, match=match):
        write_tokenizer(header, tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda writer: writer.add_add_eos_token(True), "texts end with a token (add_eos_token)"),
        (lambda writer: writer.add_unk_token_id(9999), "tokenizer.ggml.unknown_token_id=9999 of"),
    ],
)
def test_roles_that_cannot_be_read_are_refused(gguf_file, tmp_path, change, problem):
    with pytest.raises(ModelError, match=re.escape(problem)):
        write_tokenizer(read_header(gguf_file(change=change)), tmp_path / "model")

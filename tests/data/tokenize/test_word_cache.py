"""Ids from memory are those of the tokenizer, for every kind of tokenizer and any text."""

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, processors, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Metaspace, Sequence, Split, Whitespace

from pipeline.data.tokenize import word_cache
from pipeline.data.tokenize.cutters import LLAMA3, QWEN2, cutter_of
from pipeline.data.tokenize.word_cache import ID, CachedTokenizer

CORPUS = [
    "the cat sat   on the mat.\n\n  \n\t\tthe dog's café,\tnaïve 猫\r\n",
    "don't 12345 !!\n\n\nif x:\n    y  = 1/2 \xa0\u3000é",
    "Who said so?\nThe WHO: 2 of 3 cats\x85 \u2003sat.",
] * 5
ODD = "aZs'té猫9٣½ \n\r\t\f\v\x1c\x85\xa0\u2003\u3000\u2028\u200b\ufeff\u0301.!/▁<|>K\u212a"
texts = st.text(st.sampled_from(ODD) | st.characters(exclude_categories=["Cs"]), max_size=20)
texts |= st.lists(st.sampled_from([*" \n\t", "  ", "the", "cat's", "é", "<s>", "5!\n"])).map(
    "".join
)


def cut_with(expression):
    """Make the pre-tokenizer of later byte-level tokenizers."""
    pieces = ByteLevel(add_prefix_space=False, use_regex=False)
    return Sequence([Split(Regex(expression), "isolated"), pieces])


def trained(pre_tokenizer, normalizer=None, **model):
    """Train a small tokenizer that opens and closes every text."""
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = ByteLevel.alphabet() if "unk_token" not in model else []
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "</s>", "<unk>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="$A $B", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


def prepended(tokenizer):
    """Write a tokenizer with marks as Llama 2 has it: by a normalizer."""
    settings = json.loads(tokenizer.to_str())
    settings["pre_tokenizer"] = None
    settings["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    }
    return Tokenizer.from_str(json.dumps(settings))


KNOWN = {
    "gpt2": trained(ByteLevel(add_prefix_space=False)),
    "llama3": trained(cut_with(LLAMA3)),
    "qwen2": trained(cut_with(QWEN2), normalizers.NFC()),
    "marks": trained(Metaspace(), unk_token="<unk>", fuse_unk=True),
    "first mark": trained(Metaspace(prepend_scheme="first"), unk_token="<unk>"),
    "llama2": prepended(trained(Metaspace(), unk_token="<unk>", fuse_unk=True)),
}
GPT2 = KNOWN["gpt2"]


def crossing():
    """Make a tokenizer with a token that reaches across a space."""
    settings = json.loads(KNOWN["marks"].to_str())
    settings["pre_tokenizer"]["split"] = False
    vocabulary = settings["model"]["vocab"]
    vocabulary["t▁"] = len(vocabulary)
    settings["model"]["merges"].insert(0, ["t", "▁"])
    return Tokenizer.from_str(json.dumps(settings))


def with_normalized_token():
    tokenizer = Tokenizer.from_str(KNOWN["qwen2"].to_str())
    tokenizer.add_tokens([AddedToken("K", normalized=True)])
    return tokenizer


UNKNOWN = {
    "digits": lambda: trained(Sequence([Digits(individual_digits=True), ByteLevel()])),
    "a space before": lambda: trained(ByteLevel(add_prefix_space=True)),
    "another expression": lambda: trained(cut_with(r"\s+|\S+")),
    "words": lambda: trained(Whitespace()),
    "no cuts": lambda: Tokenizer(models.BPE()),
    "lower case": lambda: trained(ByteLevel(add_prefix_space=False), normalizers.Lowercase()),
    "drawn": lambda: trained(ByteLevel(add_prefix_space=False), dropout=0.5),
    "another model": lambda: Tokenizer(models.WordLevel({"a": 0}, unk_token="a")),
    "never a mark": lambda: trained(Metaspace(prepend_scheme="never"), unk_token="<unk>"),
    "across spaces": crossing,
    "normalized token": with_normalized_token,
}


def same(tokenizer, cached, batch, add_special_tokens=True):
    """Compare with the library."""
    found = cached.encode(batch, add_special_tokens)
    expected = tokenizer.encode_batch_fast(batch, add_special_tokens=add_special_tokens)
    return [np.frombuffer(ids, ID).tolist() for ids in found] == [each.ids for each in expected]


@pytest.mark.parametrize("kind", KNOWN)
@settings(deadline=None, max_examples=60)
@given(batch=st.lists(texts, max_size=8), add=st.booleans())
def test_ids_are_those_of_the_tokenizer(kind, batch, add):
    cached = CachedTokenizer(KNOWN[kind])
    assert cached._cutter is not None
    assert same(KNOWN[kind], cached, batch, add)
    assert same(KNOWN[kind], cached, batch[::-1], add), "from memory too"


@pytest.mark.parametrize("kind", KNOWN)
def test_all_short_texts_of_few_characters(kind):
    """White space of every sort beside every other sort, and beside words."""
    batch = ["".join(text) for text in product(" \n\xa0a!", repeat=6)]
    batch += ["".join(text) for text in product(" \t\r\u2003▁5", repeat=5)]
    assert same(KNOWN[kind], CachedTokenizer(KNOWN[kind]), batch)


@pytest.mark.parametrize("kind", UNKNOWN)
def test_other_tokenizers_are_left_to_the_library(kind):
    tokenizer = UNKNOWN[kind]()
    assert cutter_of(tokenizer) is None
    if kind != "drawn":
        assert same(tokenizer, CachedTokenizer(tokenizer), [*CORPUS, "at at", "a"])


@pytest.mark.parametrize("kind", KNOWN)
def test_texts_are_cut(kind):
    cutter = cutter_of(KNOWN[kind])
    assert [word.strip() for word in cutter.cut("the cat sat")] == ["the", "cat", "sat"]
    assert cutter.cut("the <s> sat") is None, "a control token is found by the library"
    assert cutter.cut("the < sat") is not None


def test_a_cut_that_would_be_wrong_is_not_used(monkeypatch):
    monkeypatch.setattr("pipeline.data.tokenize.cutters.WORDS", {QWEN2: (r"\s+|\S+", "")})
    cached = CachedTokenizer(KNOWN["qwen2"])
    assert cached._cutter is None
    assert same(KNOWN["qwen2"], cached, CORPUS)
    assert (cached.num_cut, cached.num_texts) == (0, len(CORPUS))


def test_each_word_is_tokenized_once(monkeypatch):
    cached = CachedTokenizer(GPT2)
    asked = []

    class Listener:
        def encode_batch_fast(self, batch, add_special_tokens):
            asked.extend(word for text in batch for word in text.split("<s>"))
            return GPT2.encode_batch_fast(batch, add_special_tokens=add_special_tokens)

    monkeypatch.setattr(cached, "backend", Listener())
    for batch in (["the cow", "the cow sat"], ["the cow stood"]):
        assert same(GPT2, cached, batch)
    assert sorted(asked) == [" cow", " sat", " stood", "the"]
    assert (cached.num_cut, cached.num_texts) == (3, 3)


def test_words_are_parted_by_a_control_token():
    """Metaspace treats the first word of a text in its own way, wherever control tokens stand."""
    separators = {kind: CachedTokenizer(tokenizer)._separator for kind, tokenizer in KNOWN.items()}
    assert separators == {kind: None if kind == "first mark" else ("<s>", 0) for kind in KNOWN}


def test_words_that_hold_the_id_between_words_are_tokenized_one_by_one(monkeypatch):
    cached = CachedTokenizer(KNOWN["marks"])
    unknown = KNOWN["marks"].token_to_id("<unk>")
    monkeypatch.setattr(cached, "_separator", ("<unk>", unknown))
    assert same(KNOWN["marks"], cached, ["the 😀 cat", "😀", "sat 😀😀 on"])
    monkeypatch.setattr(cached, "_separator", ("<nowhere>", 3))  # never found
    assert same(KNOWN["marks"], cached, ["whose mat", "dog's"])


def test_control_tokens_that_are_read_as_text_part_nothing():
    tokenizer = Tokenizer.from_str(KNOWN["gpt2"].to_str())
    tokenizer.encode_special_tokens = True
    assert word_cache.separator_of(tokenizer) is None
    assert same(tokenizer, CachedTokenizer(tokenizer), [*CORPUS, "the <s> sat"])


def test_what_stands_for_unknown_characters_parts_nothing():
    tokenizer = Tokenizer(models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken("<unk>", special=True)])
    assert word_cache.separator_of(tokenizer) is None
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    assert word_cache.separator_of(tokenizer) == ("</s>", 2)


@pytest.mark.parametrize(
    ("tokens", "chosen"),
    [
        ([AddedToken("<s>", special=True)], "<s>"),
        ([AddedToken("<s>", special=False), AddedToken("</s>", special=True)], "</s>"),
        ([AddedToken("<s>", special=True, rstrip=True)], None),
        ([AddedToken("<s>", special=True, lstrip=True)], None),
        ([AddedToken("<s>", special=True, single_word=True)], None),
        ([AddedToken("#a#", special=True), AddedToken("<s>", special=True)], "<s>"),
        ([AddedToken("<s>", special=True), AddedToken("x<s>", special=True)], None),
        ([AddedToken("<s>", special=True), AddedToken(">!", special=False)], None),
        ([], None),
    ],
)
def test_a_control_token_that_parts_words_cannot_be_missed(tokens, chosen):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.add_tokens(tokens)
    found = word_cache.separator_of(tokenizer)
    assert (found and found[0]) == chosen


def test_texts_of_ever_new_words_stay_whole(monkeypatch):
    monkeypatch.setattr(word_cache, "FIRST_WORDS", 20)
    cached = CachedTokenizer(GPT2)
    assert same(GPT2, cached, ["the cat"] * 10)
    known = set(cached._memory)
    assert same(GPT2, cached, [f"{n} {n + 1}" for n in range(100, 200, 2)])
    assert set(cached._memory) == known
    assert (cached.num_cut, cached.num_texts) == (10, 60)
    assert cached._memory.unknown == []
    assert same(GPT2, cached, ["the cat saw zoos cat cat cat cat cat cat"] * 2)
    assert set(cached._memory) - known == {" saw", " zoos"}


def test_memory_is_bounded(monkeypatch):
    cached = CachedTokenizer(GPT2)
    monkeypatch.setattr(word_cache, "MAX_BYTES", 10_000)
    for start in range(0, 1000, 10):
        assert same(GPT2, cached, [f"word{n} and word{n + 1}" for n in range(start, start + 10)])
        assert word_cache.memory_of(list(cached._memory)) <= cached._bytes <= 10_000

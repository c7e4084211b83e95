"""Ids of a document are those of the tokenizer's own `encode`, for tokenizers of every kind."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, processors, trainers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.pre_tokenizers import ByteLevel, Digits, Metaspace, Sequence, Split, Whitespace
from transformers import PreTrainedTokenizerFast

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Record, Text
from pipeline.data.tokenize.encode import Encoder

CORPUS = [
    "the cat sat   on the mat.\n\n  \n\t\tthe dog's café,\tnaïve 猫\r\n",
    "don't 12345 !!\n\n\nif x:\n    y  = 1/2 \xa0\u3000é",
    "Who said so?\nThe WHO: 2 of 3 cats\x85 \u2003sat.",
] * 5
ODD = "aZs'té猫9٣½ \n\r\t\f\v\x1c\x85\xa0\u2003\u3000\u2028\u200b\ufeff\u0301.!/▁<|>K\u212a"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
texts = st.text(st.sampled_from(ODD) | st.characters(exclude_categories=["Cs"]), max_size=20)
texts |= st.lists(st.sampled_from([*" \n\t", "  ", "the", "cat's", "é", "<s>", "5!\n"])).map(
    "".join
)


def cut_with(expression):
    """Make the pre-tokenizer of later byte-level tokenizers."""
    pieces = ByteLevel(add_prefix_space=False, use_regex=False)
    return Sequence([Split(Regex(expression), "isolated"), pieces])


def trained(pre_tokenizer, normalizer=None, opens=True, **model):
    """Train a small tokenizer, which opens every text if it is to."""
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "</s>", "<unk>"],
        initial_alphabet=[] if "unk_token" in model else ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if opens:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="$A $B", special_tokens=[("<s>", 0)]
        )
    return tokenizer


def llama2():
    """Mark words by a normalizer, as Llama 2 does, and fall back to bytes."""
    found = json.loads(trained(Metaspace(), unk_token="<unk>", fuse_unk=True).to_str())
    found["pre_tokenizer"] = None
    found["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    }
    vocabulary = found["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    found["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(found))


def across_spaces():
    """Have a token that reaches across a space."""
    found = json.loads(trained(Metaspace(), unk_token="<unk>", fuse_unk=True).to_str())
    found["pre_tokenizer"]["split"] = False
    vocabulary = found["model"]["vocab"]
    vocabulary["t▁"] = len(vocabulary)
    found["model"]["merges"].insert(0, ["t", "▁"])
    return Tokenizer.from_str(json.dumps(found))


def with_normalized_token():
    tokenizer = trained(cut_with(QWEN2), normalizers.NFC())
    tokenizer.add_tokens([AddedToken("K", normalized=True)])
    return tokenizer


KINDS = {
    "GPT-2": trained(ByteLevel(add_prefix_space=False), opens=False),
    "Llama 3": trained(cut_with(LLAMA3)),
    "Qwen 2": trained(cut_with(QWEN2), normalizers.NFC(), opens=False),
    "Llama 2": llama2(),
    "unknown characters": trained(Metaspace(), unk_token="<unk>"),
    "unknown characters as one": trained(Metaspace(), unk_token="<unk>", fuse_unk=True),
    "a mark before the first word": trained(Metaspace(prepend_scheme="first"), unk_token="<unk>"),
    "never a mark before": trained(Metaspace(prepend_scheme="never"), unk_token="<unk>"),
    "a space before": trained(ByteLevel(add_prefix_space=True)),
    "single digits": trained(Sequence([Digits(individual_digits=True), ByteLevel()])),
    "lower case": trained(ByteLevel(add_prefix_space=False), normalizers.Lowercase()),
    "words and signs": trained(Whitespace(), unk_token="<unk>"),
    "tokens across spaces": across_spaces(),
    "a token that is normalized": with_normalized_token(),
}


def loaded(backend):
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def encoded(tokenizer, batch):
    results = Encoder(tokenizer).encode([Record(Text(text)) for text in batch])
    return [result if isinstance(result, RowError) else result[0] for result in results]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(batch=st.lists(texts, max_size=8))
def test_ids_are_those_of_the_whole_text_and_an_end(kind, batch):
    tokenizer = loaded(KINDS[kind])
    for text, document in zip(batch, encoded(tokenizer, batch), strict=True):
        expected = tokenizer.encode(text)
        if expected[-1:] != [tokenizer.eos_token_id]:
            expected.append(tokenizer.eos_token_id)
        if expected[:2] == [tokenizer.bos_token_id] * 2:
            assert str(document).startswith("starts with <s> twice")
        else:
            assert document.ids.tolist() == expected


def test_a_tokenizer_that_draws_its_merges_draws_them_here_too():
    tokenizer = loaded(trained(ByteLevel(add_prefix_space=False), dropout=0.5))
    documents = encoded(tokenizer, CORPUS[:1] * 20)
    assert len({tuple(document.ids.tolist()) for document in documents}) > 1
    for document in documents:
        letters = "".join(tokenizer.convert_ids_to_tokens(document.ids.tolist()[1:-1]))
        assert ByteLevelDecoder().decode([letters]) == CORPUS[0]

"""The tokenizer of a GGUF file, as the `tokenizers` library and transformers have it.

A file names the way in which text is cut before its words are merged; the expressions are those of
the tokenizers that the names stand for (https://github.com/ggml-org/llama.cpp, `llama-vocab.cpp`).
"""

from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from pipeline.errors import ModelError
from pipeline.external.gguf.header import Header

CONTROL, USER_DEFINED = 3, 4
"""Types of tokens that are found in a text before it is cut."""
SPACE = "▁"
CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+"
    r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ROLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def cut_by(numbers: str) -> pre_tokenizers.PreTokenizer:
    """Make what cuts a text as Qwen and Llama 3 do, which differ in how they cut numbers."""
    split = pre_tokenizers.Split(Regex(CUT.format(numbers=numbers)), "isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, bytes_only])


def digits_apart() -> pre_tokenizers.PreTokenizer:
    """Make what cuts a text as GPT-2 does, each digit by itself."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )


PRE_TOKENIZERS = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": digits_apart,
    "qwen2": lambda: cut_by(r"\p{N}"),
    "llama-bpe": lambda: cut_by(r"\p{N}{1,3}"),
}
WHOLE_WORDS_FIRST = ("llama-bpe",)
"""Pre-tokenizers whose words are taken whole where the vocabulary has them."""
BEGUN = ("llama-bpe",)
"""Pre-tokenizers whose texts begin with a token unless the file says that they do not."""
COMPOSED = ("qwen2",)
"""Pre-tokenizers before which letters and their accents are composed (NFC)."""


class Words:
    """What a header says of a tokenizer."""

    def __init__(self, header: Header) -> None:
        self.path = header.path
        self.values = {
            key.removeprefix("tokenizer.ggml."): value
            for key, value in header.values.items()
            if key.startswith("tokenizer.ggml.")
        }
        self.tokens = self.strings("tokens")
        self.types = self.values.get("token_type") or [1] * len(self.tokens)
        if len(self.types) != len(self.tokens):
            raise self.error(f"{len(self.types)} token types for {len(self.tokens)} tokens")

    def error(self, problem: str) -> ModelError:
        """Make the error for a tokenizer that cannot be read."""
        return ModelError(
            f"model.source={self.path}: its tokenizer cannot be read: {problem}.\n"
            "Give the model's Hugging Face folder, which has a tokenizer.json."
        )

    def strings(self, key: str) -> list[str]:
        """Return a list of strings.

        Raises:
            ModelError: when there is none.
        """
        found = self.values.get(key)
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise self.error(f"tokenizer.ggml.{key} is no list of strings")
        return found

    def vocabulary(self) -> dict[str, int]:
        """Return the id of each token.

        Raises:
            ModelError: when a token stands there twice.
        """
        found = {token: index for index, token in enumerate(self.tokens)}
        if len(found) != len(self.tokens):
            raise self.error(f"{len(self.tokens) - len(found)} tokens stand in it twice")
        return found

    def token(self, role: str) -> str | None:
        """Return the token that has a role, as `bos_token`; None where there is none."""
        index = self.values.get(ROLES[role])
        if index is None:
            return None
        if not isinstance(index, int) or not 0 <= index < len(self.tokens):
            raise self.error(f"tokenizer.ggml.{ROLES[role]}={index} of {len(self.tokens)} tokens")
        return self.tokens[index]


def byte_level(words: Words) -> Tokenizer:
    """Make a tokenizer of the kind of GPT-2, whose words are bytes.

    Raises:
        ModelError: when the way in which it cuts text is not known, or a merge is none.
    """
    kind = words.values.get("pre")
    if kind not in PRE_TOKENIZERS:
        raise words.error(f"tokenizer.ggml.pre={kind!r}, and {', '.join(PRE_TOKENIZERS)} are known")
    vocabulary = words.vocabulary()
    merges = [pair_of(merge, vocabulary, words) for merge in words.strings("merges")]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, ignore_merges=kind in WHOLE_WORDS_FIRST)
    )
    if kind in COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[kind]()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def pair_of(merge: str, vocabulary: dict[str, int], words: Words) -> tuple[str, str]:
    """Return the two tokens of a merge.

    Raises:
        ModelError: when they or what they make are no tokens.
    """
    first, _, second = merge.partition(" ")
    if not {first, second, first + second} <= vocabulary.keys():
        raise words.error(f"the merge {merge!r} does not make a token of two tokens")
    return first, second


def sentence_piece(words: Words) -> Tokenizer:
    """Make a tokenizer of the kind of Llama 2: SentencePiece, merged by score, bytes as a last way.

    Raises:
        ModelError: when there is not one score for each token.
    """
    scores, vocabulary = words.values.get("scores"), words.vocabulary()
    if not isinstance(scores, list) or len(scores) != len(words.tokens):
        raise words.error("there is not one score for each token")
    normal = {
        token: score
        for token, score, kind in zip(words.tokens, scores, words.types, strict=True)
        if kind == 1
    }
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=generate_merges(vocabulary, normal),
            unk_token=words.token("unk_token"),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    has_prefix = words.values.get("add_space_prefix", True)
    prefix = [normalizers.Prepend(SPACE)] if has_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if has_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


KINDS = {"gpt2": byte_level, "llama": sentence_piece}


def write_tokenizer(header: Header, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json of a GGUF file.

    Raises:
        ModelError: when its kind is not known, or the vocabulary is damaged.
    """
    words = Words(header)
    kind = words.values.get("model")
    if kind not in KINDS:
        raise words.error(f"tokenizer.ggml.model={kind!r}, and {', '.join(KINDS)} are known")
    tokenizer = KINDS[kind](words)
    tokenizer.add_tokens(
        [
            added(*pair)
            for pair in zip(words.tokens, words.types, strict=True)
            if pair[1] in (CONTROL, USER_DEFINED)
        ]
    )
    roles = {role: token for role in ROLES if (token := words.token(role)) is not None}
    if words.values.get("add_eos_token"):
        raise words.error("texts end with a token (add_eos_token), which is not supported")
    if words.values.get("add_bos_token", kind == "llama" or words.values.get("pre") in BEGUN):
        begin_with(tokenizer, roles, words)
    template: Any = header.values.get("tokenizer.chat_template")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=template if isinstance(template, str) else None,
        clean_up_tokenization_spaces=False,
        **roles,
    ).save_pretrained(folder)


def added(token: str, kind: int) -> AddedToken:
    """Describe a token that is found in a text before it is cut."""
    return AddedToken(token, special=kind == CONTROL, normalized=False)


def begin_with(tokenizer: Tokenizer, roles: dict[str, str], words: Words) -> None:
    """Make each text begin with the token for that.

    Raises:
        ModelError: when there is none.
    """
    token = roles.get("bos_token")
    if token is None:
        raise words.error("texts begin with a token (add_bos_token), and bos_token_id names none")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{token} $A",
        pair=f"{token} $A {token} $B",
        special_tokens=[(token, tokenizer.token_to_id(token))],
    )

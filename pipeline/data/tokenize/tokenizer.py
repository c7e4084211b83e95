"""The tokenizer: loaded from its files, or trained for a new model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pipeline.data.tokenize.limits import growth_problem, panics_as_errors
from pipeline.data.tokenize.template import ChatTemplate
from pipeline.errors import ModelError
from pipeline.external.tokenizer_files import require_tokenizer

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"


def load_tokenizer(folder: Path, named: Path | None = None) -> PreTrainedTokenizerFast:
    """Load a tokenizer from its files; no network is used, and no code from the folder is run.

    Args:
        folder: with its files.
        named: where they come from, as the user knows it; None: the folder.

    Raises:
        ModelError: when a file is missing or damaged, or there is no end-of-sequence token.
    """
    require_tokenizer(folder)
    place = named or folder
    try:
        with panics_as_errors():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # the library passes on errors of its parsers, of any type
        reason = str(error).replace(str(folder), str(place))
        raise ModelError(
            f"{place}: the tokenizer cannot be read: {reason}\n"
            "Fetch the model again, or save it again with transformers."
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{place}: the tokenizer names no end-of-sequence token, so no answer could end.\n"
            "Set eos_token in tokenizer_config.json."
        )
    if problem := growth_problem(tokenizer.backend_tokenizer):
        raise ModelError(f"{place}: tokenizer.json: {problem}.\nChoose another model.")
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the largest id plus one; there may be gaps between ids."""
    return max(tokenizer.get_vocab().values()) + 1


def chat_template_of(tokenizer: PreTrainedTokenizerFast) -> ChatTemplate:
    """Return the chat template of a tokenizer, and what else decides what it writes."""
    texts: Any = tokenizer.chat_template
    if not isinstance(texts, dict):
        texts = {"default": texts}
    default, tokens = texts.get("default"), tokenizer.added_tokens_decoder.values()
    return ChatTemplate(
        default,
        texts.get("tool_use", default),
        tokenizer.special_tokens_map,
        tuple(token.content for token in tokens if token.special),
        tuple(token.content for token in tokens),
    )


def train_tokenizer(texts: Iterator[str], vocab_size: int, folder: Path) -> None:
    """Train a byte-level BPE tokenizer, which encodes any text and decodes it without loss.

    Args:
        texts: what to train on; memory grows with the number of different words.
        vocab_size: number of tokens; fewer where the texts have not enough pairs to merge.
        folder: where to write the files, which transformers reads.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS
    ).save_pretrained(folder)

import pytest
from tokenizers import Tokenizer, decoders, models, trainers
from tokenizers.pre_tokenizers import ByteLevel

from pipeline.external.gguf.tokenizer import PRE_TOKENIZERS
from tests.support.gguf_files import byte_words, piece_words, write_gguf

TEXTS = [
    "Once upon a time there was 1 tiny model of 1234 numbers, and it didn't stop.\n\n",
    "def f(x):\n    return x + 23  # naïve café\r\n\tDON'T  they'LL  \u3000\n",
    "文字 и буквы ½ Ⅷ 🙂 é e\u0301 {}[]()<>!? // == 3.14e-10 0x1F",
] * 3


def trained(pre):
    """Train a byte-level tokenizer with the pre-tokenizer of that name."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<s>", "<|im_end|>"],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


@pytest.fixture(scope="session")
def words():
    return {pre: byte_words(trained(pre)) for pre in PRE_TOKENIZERS}


@pytest.fixture
def gguf_file(tmp_path, words):
    """Write a small model; the options are those of `write_gguf`."""

    def write(arch="llama", pre="gpt-2", name="model.gguf", **options):
        options.setdefault("words", words.get(pre) or words["gpt-2"])
        return write_gguf(tmp_path / name, arch, pre=pre, **options)

    return write


@pytest.fixture(scope="session")
def stories(samples):
    return Tokenizer.from_file(str(samples / "models/stories260K/tokenizer.json"))


@pytest.fixture(scope="session")
def pieces(stories):
    return piece_words(stories)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    return tmp_path / "model"

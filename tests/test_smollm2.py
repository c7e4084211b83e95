"""SmolLM2 against llama.cpp, which reads the same GGUF file: the same tokens, the same text."""

import random

import numpy as np
import pytest

from pipeline.data.tokenize.tokenizer import load_tokenizer
from pipeline.device import mx
from pipeline.external.gguf.convert import converted
from pipeline.generate import generate_greedy
from pipeline.model.base import load_base
from pipeline.model.forward import forward
from pipeline.model.upstream import TokenizerWrapper
from tests.support.llama_cpp import LlamaCpp

PIECES = [
    *("a", "b", "  ", "\n", "\r\n", "\t", "1", "23", "4567"),
    *("é", "e\u0301", "ß", "中", "文字", "🙂"),
    *("'s", "'LL", ".", "...", "!?", "<|im_", "<repo_name>", "don't", "x=3;", "{", "}", "\u200b"),
    *("Hello", " world", "the", "Ⅷ", "½", "०१", "\u3000", "A", "Z", "_", "--", "://", "@"),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
]
QUESTIONS = (
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "How do I sort a list in Python?",
    "Explain gravity to a child.",
    "List three kinds of birds.",
)
NUM_STRINGS, TOKENS_A_QUESTION = 1000, 40


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return load_tokenizer(converted(smollm2))


@pytest.fixture(scope="module")
def model(smollm2_base):
    return load_base(smollm2_base, "float32").model


@pytest.fixture
def llama_cpp(readers):
    """Open a GGUF file in llama.cpp."""
    xllamacpp = readers("xllamacpp")
    return lambda file: LlamaCpp(xllamacpp, file)


def prompt_of(tokenizer, question):
    """Return the tokens of a conversation that waits for its first answer."""
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer.encode(text, add_special_tokens=False)


def test_the_capital_of_france(model, tokenizer):
    prompt = prompt_of(tokenizer, QUESTIONS[0])
    answer = generate_greedy(model, TokenizerWrapper(tokenizer), prompt, 30)
    print(answer.text)
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"


def test_texts_are_tokenized_as_llama_cpp_does(smollm2, tokenizer, llama_cpp):
    theirs, generator = llama_cpp(smollm2), random.Random(0)
    for _ in range(NUM_STRINGS):
        pieces = generator.choices(PIECES, k=generator.randint(1, 40))
        text = "".join(pieces)
        assert tokenizer.encode(text, add_special_tokens=False) == theirs.tokenize(text), text


def log_probabilities(model, ids):
    """Compute those of each next token, [tokens, vocabulary] in float64."""
    logits = np.array(forward(model, mx.array([ids]))[0].astype(mx.float32)).astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def compared(model, tokenizer, theirs):
    """Compare the next token at each place of chats that llama.cpp continues.

    Returns:
        Whether the likeliest token is the same; how far apart the best two are there, in nats; the
        difference of the log-probabilities of the token that was chosen. Where a text would end
        that is not the likeliest.
    """
    same, margins, differences = [], [], []
    for question in QUESTIONS:
        prompt = prompt_of(tokenizer, question)
        chosen = theirs.continued(prompt, TOKENS_A_QUESTION)
        ids = [*prompt, *(token for token, _ in chosen)]
        places = log_probabilities(model, ids)[len(prompt) - 1 : -1]
        for ours, (token, likeliest) in zip(places, chosen, strict=True):
            best, second = sorted(likeliest.values(), reverse=True)[:2]
            same.append(int(ours.argmax()) == max(likeliest, key=likeliest.get))
            margins.append(best - second)
            differences.append(abs(ours[token] - likeliest[token]))
    return np.array(same), np.array(margins), np.array(differences)


def report(name, same, margins, differences):
    """Print what a comparison came to."""
    print(
        f"{name}: {same.sum()} of {len(same)} tokens are the same; the best two are at most "
        f"{margins[~same].max(initial=0):.3g} nats apart where not; log-probabilities differ by "
        f"{np.median(differences):.2g} at the median and {differences.max():.2g} at worst"
    )


def test_the_next_token_is_that_of_llama_cpp(smollm2, model, tokenizer, llama_cpp):
    """llama.cpp rounds activations to 8 bits where weights are quantised, which costs exactness."""
    same, margins, differences = compared(model, tokenizer, llama_cpp(smollm2))
    report("4-bit weights", same, margins, differences)
    assert same.sum() >= 190
    assert np.median(differences) <= 0.05


def test_with_weights_in_float32_it_is_so_within_the_noise_of_float32(
    smollm2_float32, model, tokenizer, llama_cpp
):
    same, margins, differences = compared(model, tokenizer, llama_cpp(smollm2_float32))
    report("float32 weights", same, margins, differences)
    assert not (~same & (margins > 1e-3)).any()
    assert differences.max() < 1e-3

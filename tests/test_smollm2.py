"""SmolLM2 against llama.cpp, torch and peft: the same tokens, the same text, the same training."""

import csv
import random
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline.data.tokenize.tokenizer import load_tokenizer
from pipeline.device import mx
from pipeline.external.gguf.convert import converted
from pipeline.generate.answers import AnswerGenerator
from pipeline.model.network.base import load_base
from pipeline.model.network.forward import forward
from pipeline.model.network.tree import trainable_arrays
from pipeline.train.finetune import Finetune
from pipeline.train.observer import Observer
from pipeline.train.protocol import Go, RunSpec
from tests.support.llama_cpp import LlamaCpp
from tests.support.repository import ROOT, STAGES, fresh_clone, ran, read, run
from tests.support.smollm2 import RECIPE
from tests.support.torch_training import adapter_of, their_steps, theirs_with_our_adapter

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
GO = Go(0, 10**10, None, 0, "refuse", 1, 0, None, "none")
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


def test_the_capital_of_france(smollm2, model, tokenizer):
    answers = AnswerGenerator(converted(smollm2), 30)
    [prompt] = answers.prompts({"--prompt": QUESTIONS[0]})
    assert prompt == prompt_of(tokenizer, QUESTIONS[0])
    answer = answers.answer(model, prompt)
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


def steps_of(run):
    """Read loss and gradient norm of each step."""
    rows = list(csv.DictReader((run.run / "train.csv").read_text().splitlines()))
    return np.array([[float(row["train_loss"]), float(row["grad_norm"])] for row in rows])


def distance(one, other):
    """Return the Euclidean distance of two adapters."""
    parts = [np.sum((np.float64(one[name]) - np.float64(other[name])) ** 2) for name in one]
    return float(np.sqrt(sum(parts)))


@pytest.mark.filterwarnings("ignore::FutureWarning:peft", "ignore::FutureWarning:transformers")
def test_a_lora_run_is_that_of_torch_and_peft(readers, smollm2, smollm2_run):
    done = smollm2_run.undisturbed
    trainer = Finetune(RunSpec.read(done.run / "run.json")).load(GO, Observer())
    start = {name: np.array(value) for name, value in trainable_arrays(trainer.model).items()}
    steps, ends = {}, {}
    for dtype in ("float32", "float64"):
        torch, model = theirs_with_our_adapter(readers, converted(smollm2), start, dtype)
        steps[dtype] = np.array(list(their_steps(torch, model, trainer.feed, RECIPE)))
        ends[dtype] = adapter_of(model, start)
    ours, end = steps_of(done), load_file(done.output / "adapters.safetensors")
    losses, norms = np.abs(ours / steps["float32"] - 1).T
    way = distance(start, ends["float64"])
    away = distance(ends["float32"], end) / way
    noise = distance(ends["float32"], ends["float64"]) / way
    error = distance(ends["float64"], end) / way
    print(
        f"losses from {ours[0, 0]:.4f} to {ours[-1, 0]:.4f} differ by {losses[0]:.1e} at the first "
        f"step and {losses[-1]:.1e} at the last, gradient norms by {norms.max():.1e} at most; "
        f"clipped in {(ours[:, 1] > RECIPE.max_grad_norm).sum()} of {len(ours)} steps; adapters "
        f"are {away:.1e} of the way apart; from those of torch in 64 bits ours are {error:.1e}, "
        f"those in 32 bits {noise:.1e}"
    )
    assert (ours[:, 1] > RECIPE.max_grad_norm).sum() > 5
    assert losses[0] < 1e-5
    assert losses[-1] < 1e-4
    assert away < max(1e-3, 2 * noise)
    assert error < 1e-3


def test_the_validation_loss_falls(smollm2_run):
    text = (smollm2_run.undisturbed.run / "validation.csv").read_text()
    losses = [float(row["val_loss"]) for row in csv.DictReader(text.splitlines())]
    print(f"validation loss from {losses[0]:.4f} to {losses[-1]:.4f}")
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.exhaustive
def test_killing_it_twice_changes_no_bit(smollm2_run, tmp_path):
    training = smollm2_run(tmp_path / "killed")
    for step in (4, 12):
        training.start(OPENBLAS_NUM_THREADS="2").wait_for_step(step)
        training.process.kill()
        training.end()
    training.complete(OPENBLAS_NUM_THREADS="2")
    assert training.result() == smollm2_run.undisturbed.result()


CUT = {
    "train.num_steps": 5,
    "train.steps_per_eval": 5,
    "train.steps_per_save": 5,
    "train.validation_documents": 4,
    "validate.documents": 4,
    "validate.num_samples": 1,
    "validate.sample_tokens": 16,
    "benchmark.num_steps": 1,
    "benchmark.generated_tokens": 8,
}
MEASURED = {
    "prepare": "prepare_machine",
    "weights": "weights_machine",
    "train": "train_machine",
    "export": "export_machine",
    "validate": "validate_machine",
    "benchmark": "benchmark",
}
"""Where each stage writes its time."""
MAX_SECONDS = 600


@pytest.mark.parametrize("changes", [CUT, pytest.param({}, marks=pytest.mark.exhaustive)])
def test_all_stages_run_on_it(smollm2, tmp_path, changes):
    folder = fresh_clone(tmp_path / "repository")
    place = folder / smollm2.relative_to(ROOT)
    place.parent.mkdir(parents=True)
    shutil.copy(smollm2, place)
    overrides = [f"{name}={value}" for name, value in {"experiment": "smollm2", **changes}.items()]
    done = run(folder, "dvc", "exp", "run", *(word for each in overrides for word in ("-S", each)))
    assert ran(done) == list(STAGES)
    seconds = {stage: read(folder, name)["stage_seconds"] for stage, name in MEASURED.items()}
    print(*(f"{stage:10} {spent:6.1f} s" for stage, spent in seconds.items()), sep="\n")
    assert read(folder, "train")["num_steps"] == changes.get("train.num_steps", 20)
    assert sum(seconds.values()) < MAX_SECONDS

"""The answer to `--plan`, from prepared rows and from settings alone."""

import re

import pytest

from pipeline.errors import ConfigError, ModelError
from pipeline.machine import footprint_bytes
from pipeline.train.plan.answer import answer
from pipeline.train.protocol import RunSpec, plain
from stages.params import composed
from tests.support.plans import write_llama
from tests.support.small import TINY_SHAPE

OTHERS = 50_000_000
SHAPE = [f"model.scratch.{name}={str(value).lower()}" for name, value in TINY_SHAPE.items()]
SHAPE = [text for text in SHAPE if "vocab_size" not in text] + ["model.scratch.vocab_size=260"]


@pytest.fixture
def ask(tmp_path):
    """Plan a composed configuration; return the text."""

    def plan(*overrides, longest=None, verbose=False, limit_bytes=10**11, base="", prepared=""):
        overrides = [*overrides, *([f"data.max_seq_len={longest}"] if longest else [])]
        spec = RunSpec(
            title="plan",
            kind="plan",
            parameters=plain(composed(overrides)) | {"verbose": verbose},
            base=str(base),
            prepared=str(prepared),
            run_folder=str(tmp_path / "run"),
            output=str(tmp_path / "out/trained"),
            activations=str(tmp_path / "prefix"),
        )
        return answer(spec, limit_bytes, OTHERS)["text"]

    return plan


@pytest.fixture
def local(tmp_path):
    folder = write_llama(tmp_path / "llama", blocks=3)
    return ["data=jsonl", "data.path=rows.jsonl", "model=local", f"model.source={folder}"]


def test_a_model_is_planned_from_its_folder_without_rows(ask, local):
    text = ask(*local, "train.batch_size=3", longest=256)
    assert re.match(
        r"model: llama, llama with [\d,]+ parameters\n"
        r"train\.mode=lora with adamw at a learning rate of 0\.002\n"
        r"300 steps, each of 3 documents of up to 256 tokens\n"
        r"No rows are prepared for this",
        text,
    )
    assert "3 x 256 tokens, the largest of a step" in text
    assert "It fits: 100.000 GB are allowed (train.memory_limit_gb)." in text
    assert re.search(r"It takes at most .*: 300 steps of .* tokens/s\), 7 validations of", text)
    stages = [line.split()[0] for line in text.splitlines()[-5:]]
    assert stages == ["weights", "train", "export", "validate", "benchmark"]


def test_without_a_length_the_model_decides(ask, local):
    assert "documents of up to 2048 tokens" in ask(*local)
    with pytest.raises(ConfigError, match=r"data\.max_seq_len=5000: the model has 4096 positions"):
        ask(*local, longest=5000)


def test_a_model_that_is_yet_to_be_made_is_planned_from_its_settings(ask, tmp_path):
    text = ask(*SHAPE, "validate.sample_tokens=8", "benchmark=short", "benchmark.prompt_tokens=8")
    assert text.startswith("model: scratch, llama with ")
    assert "32 documents of up to 64 tokens" in text
    assert not (tmp_path / "out").exists()


def test_rows_and_a_base_that_are_there_are_planned_as_they_are(ask, world):
    given = {"base": world / "base", "prepared": world / "prepared"}
    asked = ["data=stdlib", *SHAPE, "validate.sample_tokens=8", "benchmark=short"]
    asked += ["benchmark.prompt_tokens=8", "train.num_steps=12", "train.batch_size=6"]
    text = ask(*asked, **given)
    assert re.search(r"\n12 steps, each of 6 documents of up to 2\d tokens\n\n", text)
    assert "6 x 32 tokens" in text
    assert "It takes at most" not in text


def test_what_does_not_fit_is_answered_with_what_would(ask, local):
    limit_bytes = footprint_bytes() + OTHERS + 150_000_000
    text = ask(*local, "train.batch_size=64", longest=256, limit_bytes=limit_bytes)
    assert "\nIt does not fit.\nThe training needs " in text
    assert "Each of these makes it fit, peak of MLX as predicted:\n" in text
    assert "It takes at most" in text


def test_more_is_told_where_it_is_asked_for(ask, local):
    short, long = (ask(*local, longest=64, verbose=flag) for flag in (False, True))
    assert "floor" not in short
    for words in (
        "peak: update",
        "floor",
        "with train.grad_checkpoint=true",
        "one tensor of up to",
    ):
        assert words in long


def test_a_model_that_is_not_there_is_refused(ask):
    with pytest.raises(ModelError, match=r"model\.source=nowhere: there is no such folder"):
        ask("data=jsonl", "data.path=x", "model=local", "model.source=nowhere")

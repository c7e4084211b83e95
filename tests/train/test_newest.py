"""The newest weights of a run, loaded by another process than its worker."""

import pytest

from pipeline.device import mx
from pipeline.errors import CheckpointError
from pipeline.model.network.forward import forward
from pipeline.train.finetune import Finetune
from pipeline.train.newest import newest_model
from pipeline.train.observer import Observer
from pipeline.train.protocol import Go, RunSpec
from tests.support.drive import parameters
from tests.support.exports import TOKENS

GO = Go(0, 10**10, None, 0, "refuse", 1, 0, None, "none")
TENSORS = {"train__mode": "tensors", "train__tensors": ["*.q_proj.weight"]}


@pytest.fixture
def spec_of(world, tmp_path):
    """Specify a run of three steps."""

    def make(**changes):
        return RunSpec(
            title="train",
            kind="finetune",
            parameters=parameters(train__num_steps=3, train__steps_per_save=2, **changes),
            base=str(world / "base"),
            prepared=str(world / "prepared"),
            run_folder=str(tmp_path / "run"),
            output=str(tmp_path / "out"),
        )

    return make


@pytest.mark.parametrize(
    "changes",
    [{"train__mode": mode} for mode in ("lora", "dora", "head", "full")] + [TENSORS],
    ids=lambda changes: changes["train__mode"],
)
def test_it_computes_what_the_worker_would(spec_of, changes):
    spec = spec_of(**changes)
    trainer = Finetune(spec).load(GO, Observer())
    trainer.restore()
    before = forward(trainer.model, TOKENS)
    list(trainer.steps())
    trainer.model.eval()
    expected = forward(trainer.model, TOKENS)
    found = newest_model(spec)
    found.eval()  # without dropout, as generation has it
    assert mx.array_equal(forward(found, TOKENS), expected)
    assert not mx.array_equal(expected, before)


def test_a_run_without_a_checkpoint_is_refused(spec_of):
    with pytest.raises(CheckpointError, match=r"this run has no checkpoint yet.\nWait for the fir"):
        newest_model(spec_of())

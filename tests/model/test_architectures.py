"""Which architectures the table of docs/models.md knows; tests/test_architectures.py compares."""

from pipeline.model.architectures import unproven_notice


def test_an_architecture_in_no_row_is_warned_of():
    assert unproven_notice({"model_type": "llama"}) is None
    assert unproven_notice({"model_type": "internlm2"}) == (
        "model_type=internlm2 is in no row of docs/models.md: nothing has compared it with another "
        "library. `make check-model` compares its logits with those of transformers."
    )

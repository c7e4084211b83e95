"""Which architectures the table of docs/models.md knows; tests/test_architectures.py compares."""

from pipeline.files import write_json
from pipeline.model.architectures import unproven_notice


def test_an_architecture_in_no_row_is_warned_of(model_folder, tiny_config):
    assert unproven_notice(model_folder) is None
    write_json(model_folder / "config.json", tiny_config | {"model_type": "internlm2"})
    assert unproven_notice(model_folder) == (
        "model_type=internlm2 is in no row of docs/models.md: nothing has compared it with another "
        "library. `make check-model` compares its logits with those of transformers."
    )

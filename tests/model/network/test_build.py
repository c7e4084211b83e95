"""What config.json says of a model, read before it is built."""

import pytest

from pipeline.device import mx
from pipeline.errors import ModelError
from pipeline.model.network.build import build, stored_dtype


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"torch_dtype": "bfloat16"}, mx.bfloat16),
        ({"dtype": "float16"}, mx.float16),
        ({"torch_dtype": None, "text_config": {"dtype": "bfloat16"}}, mx.bfloat16),
        ({"text_config": {"torch_dtype": "float16"}}, mx.float16),
        ({"text_config": None}, mx.float32),
    ],
)
def test_the_stored_type_is_found_wherever_it_is_named(config, dtype):
    assert stored_dtype(config) == dtype


def test_an_architecture_that_mlx_lm_lacks_is_refused():
    with pytest.raises(ModelError, match="model_type=abacus cannot be built"):
        build({"model_type": "abacus"})
    with pytest.raises(ModelError, match=r"model_type=olmo cannot be built \(SystemExit"):
        build({"model_type": "olmo"})  # its module ends the process

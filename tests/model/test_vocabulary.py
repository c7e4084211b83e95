"""How many tokens a model knows."""

import pytest

from pipeline.errors import ModelError
from pipeline.model.vocabulary import vocabulary_size

GEMMA3 = {
    "model_type": "gemma3",
    "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34},
}
"""As Gemma 3 4B is published, the rest of its facts apart."""


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"vocab_size": 64}, 64),
        ({"text_config": {"vocab_size": 65}, "vocab_size": 64}, 65),
        (GEMMA3, 262_208),
        (GEMMA3 | {"vocab_size": 70}, 70),
    ],
)
def test_it_is_found_where_it_stands_or_left_to_the_architecture(tmp_path, config, size):
    assert vocabulary_size(tmp_path, config) == size


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama"},
        {"model_type": "unheard_of", "text_config": {"a": 1}},
        {"model_type": "gemma3", "text_config": {"num_hidden_layers": "many"}},
    ],
)
def test_a_config_that_leaves_it_open(tmp_path, config):
    with pytest.raises(ModelError, match=r"config\.json: vocab_size is missing\.\nUse the config"):
        vocabulary_size(tmp_path, config)

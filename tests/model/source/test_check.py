"""Whether a folder's weights are those of its config.json."""

import json

import pytest

from pipeline.device import mx
from pipeline.errors import ModelError
from pipeline.files import read_json
from pipeline.model.source.check import check_weights, not_finite


def test_good_weights_pass(model_folder):
    check_weights(model_folder, read_json(model_folder / "config.json"))


def test_a_config_of_another_shape_is_refused_with_each_tensor(model_folder):
    config = read_json(model_folder / "config.json") | {"intermediate_size": 48}
    (model_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"down_proj\.weight: file \(16, 32\), config\.json \(16"):
        check_weights(model_folder, config)


def test_numbers_that_are_not_finite_are_counted_by_tensor():
    weights = {"a": mx.array([1.0, float("nan"), float("inf")]), "b": mx.array([1.0])}
    assert not_finite(weights) == ["a: 2 of 3 numbers are not finite"]

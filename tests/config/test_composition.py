"""conf/ is composed as params.yaml has it; how overrides are refused is tested with the stages."""

import pytest
from omegaconf import OmegaConf

from pipeline.config.composition import composed
from pipeline.errors import ConfigError


def test_overrides_are_taken_and_references_resolved():
    config = composed(["lora.rank=3", "experiment=smoke"])
    assert (config.lora.rank, config.inputs) == (3, None)
    assert "${" not in OmegaConf.to_yaml(config, resolve=False)


def test_a_value_out_of_range_is_refused():
    with pytest.raises(ConfigError, match=r"lora\.rank=0: must be at least 1"):
        composed(["lora.rank=0"])

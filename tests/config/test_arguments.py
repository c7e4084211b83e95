"""What a user types after `python -m stages.NAME`: flags, and Hydra's overrides."""

import pytest

from pipeline.config.arguments import Flag, take_flags
from pipeline.errors import ConfigError
from tests.config.test_stage import EXPLAIN


def test_a_flag_without_its_value_is_refused():
    with pytest.raises(ConfigError, match=r"^--explain: write --explain FILE$"):
        take_flags(["--explain"], (EXPLAIN,))


def test_a_flag_that_goes_with_another_one_is_refused_alone():
    flags = Flag("plan", ""), Flag("verbose", "", needs="plan")
    with pytest.raises(ConfigError, match=r"^--verbose goes with --plan; write both, or neither$"):
        take_flags(["--verbose"], flags)
    assert take_flags(["--verbose", "--plan"], flags)[1] == {"verbose": True, "plan": True}

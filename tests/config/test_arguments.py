"""What a user types after `python -m stages.NAME`: flags, and Hydra's overrides."""

import pytest

from pipeline.config.arguments import take_flags
from pipeline.errors import ConfigError
from tests.config.test_stage import EXPLAIN


def test_a_flag_without_its_value_is_refused():
    with pytest.raises(ConfigError, match=r"^--explain: write --explain FILE$"):
        take_flags(["--explain"], (EXPLAIN,))

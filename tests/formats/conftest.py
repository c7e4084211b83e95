"""What tests of this folder share."""

import pytest

from tests.support.exports import (
    Workplace,
)


@pytest.fixture
def make_workplace(tmp_path, tiny_config, make_store):
    make_store("validation", count=12, seed=1)
    make_store("test", count=10, seed=2)

    def make(kind="float32", mode="lora", **settings):
        return Workplace(tmp_path, tiny_config, kind, mode, settings)

    return make


@pytest.fixture
def workplace(make_workplace):
    return make_workplace()

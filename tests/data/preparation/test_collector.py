"""Python's garbage collector while millions of rows go by."""

import gc

import pytest

from pipeline.data.preparation.collector import freeze_gc


def test_objects_are_frozen_inside_and_released_after_an_error():
    assert gc.get_freeze_count() == 0
    with pytest.raises(KeyError), freeze_gc():
        assert gc.get_freeze_count() > 0
        raise KeyError
    assert gc.get_freeze_count() == 0

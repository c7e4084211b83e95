"""The plan of a training: what it will take, made before anything is loaded."""

import pytest

from pipeline.errors import ModelError
from pipeline.train.plan.report import make_plan
from tests.support.plans import request_of


def test_a_folder_without_a_config(tmp_path):
    with pytest.raises(ModelError, match=r"config.json: there is no such file"):
        make_plan(request_of(tmp_path))

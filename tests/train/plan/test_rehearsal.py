"""A training step on a model without weights: each of its evaluations is traced."""

import dataclasses

import pytest

from pipeline.train.plan import rehearsal
from pipeline.train.plan.report import make_plan
from tests.support.plans import request_of
from tests.support.published import write_config


def test_the_floor_of_llama_8b_is_as_published_numbers_give_it(tmp_path):
    write_config(tmp_path, "Llama-3.1-8B")
    request = request_of(tmp_path, rows=1, longest=2049, rank=16, dtype="bfloat16", checkpoint=True)
    found = predict_floor(request)
    assert found == pytest.approx(17.7e9, rel=0.01)
    assert predict_floor(dataclasses.replace(request, base_bits=4)) == pytest.approx(
        6.1e9, rel=0.01
    )


def predict_floor(request):
    """Give the floor of a step without tracing it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsal, "trace", lambda *_: (_ for _ in ()).throw(ValueError("skipped")))
        return make_plan(request).floor_bytes

"""Predicted and measured memory: nothing in the prediction was fitted to any of these."""

import json
import os
import subprocess
import sys

import pytest

from pipeline.train.plan.predict import predict
from tests.conftest import ROOT
from tests.support.plans import request_of, write_llama

NUM_STEPS = 20
MARGIN, MARGIN_OF_STREAMS = 0.01, 0.08

SMALL, WIDE = {"hidden": 64, "blocks": 2}, {"hidden": 128, "blocks": 3}
MEASURED = {
    "lora, long rows": (SMALL, {"rows": 1, "longest": 513}),
    "lora, recomputed": (WIDE | {"blocks": 4}, {"rows": 2, "checkpoint": True}),
    "lora, last block only": (WIDE, {"rows": 2, "num_layers": 1}),
    "lora, others stored, packed, recomputed, accumulated, validation": (
        WIDE | {"blocks": 5},
        {"num_layers": 2, "cached": True, "checkpoint": True, "micro": 2}
        | {"arrangement": "packed", "validation": 512},
    ),
    "head, blocks stored": (WIDE | {"blocks": 6}, {"mode": "head", "cached": True}),
    "head, blocks stored, conflicts": (
        WIDE | {"blocks": 6},
        {"mode": "head", "cached": True, "validation": 1024, "conflicts": True},
    ),
    "lora, dropout": (WIDE, {"rows": 2, "longest": 65, "dropout": 0.1}),
    "lora, packed, validation": (SMALL, {"arrangement": "packed", "validation": 1024}),
    "lora, vocabulary of Llama 3": (SMALL | {"vocab": 128256}, {"rows": 1, "longest": 33}),
    "lora, several chunks": (SMALL | {"vocab": 32000}, {"rows": 2}),
    "dora": (WIDE, {"mode": "dora"}),
    "head": (WIDE, {"mode": "head"}),
    "head, recomputed": (WIDE, {"mode": "head", "checkpoint": True, "micro": 2}),
    "tensors": (WIDE, {"mode": "tensors"}),
    "full": (WIDE, {"mode": "full"}),
    "full, bfloat16": (WIDE, {"mode": "full", "dtype": "bfloat16"}),
    "full, bfloat16, no copies": (
        WIDE,
        {"mode": "full", "dtype": "bfloat16", "float32_copy": False},
    ),
    "full, bfloat16, accumulated": (
        WIDE,
        {"mode": "full", "dtype": "bfloat16", "micro": 3, "longest": 65},
    ),
    "full, sgd": (WIDE, {"mode": "full", "optim": "sgd", "longest": 17}),
    "full, muon": (WIDE, {"mode": "full", "optim": "muon", "longest": 17}),
    "full, accumulated": (WIDE, {"mode": "full", "micro": 3, "longest": 65}),
    "full, recomputed, accumulated": (
        WIDE | {"blocks": 4},
        {"mode": "full", "micro": 2, "checkpoint": True},
    ),
    "full, several chunks": (SMALL | {"vocab": 8192}, {"mode": "full", "rows": 5}),
    "full, vocabulary of Llama 3": (
        {"hidden": 32, "blocks": 1, "vocab": 128256, "tie_word_embeddings": False},
        {"mode": "full", "rows": 1, "longest": 17},
    ),
}
RATIOS = {
    "lora, recomputed": 1.025,
    "lora, last block only": 0.984,
    "lora, others stored, packed, recomputed, accumulated, validation": 0.935,
    "head, blocks stored, conflicts": 0.982,
    "dora": 1.01,
    "tensors": 0.989,
    "full, muon": 1.015,
    "streams, lora, long rows": 1.05,
    "streams, lora, three streams, accumulated, validation": 1.03,
    "above 2 GB, recomputed": 0.98,
    "streams, lora, vocabulary of Llama 3": 1.136,  # only one of two streams is 55 tasks behind
    "streams, recomputed": 1.12,  # peaks of streams are added up, and need not coincide
}
"""Predicted by measured peak, where approximations of the planner make it other than 1."""
MARGINS = {
    "lora, recomputed": 0.025,
    "lora, others stored, packed, recomputed, accumulated, validation": 0.025,
    "head, blocks stored": 0.025,
    "head, blocks stored, conflicts": 0.02,
    "full, adam": 0.015,
    "above 2 GB, recomputed": 0.025,  # measured: 2,033.5 MB, three times 2,098.5 MB, 2,121.6 MB
    "streams, recomputed": 0.12,
}
"""Timing decides how far the device lags behind, and how the peaks of streams fall together, so
that these peaks vary more than others from run to run."""
MORE = (
    "lora, last block only",
    "head, blocks stored",
    "lora, packed, validation",
    "lora, vocabulary of Llama 3",
    "head",
    "full",
    "full, bfloat16, no copies",
    "tensors",
    "lora, dropout",
    "lora, several chunks",
    "head, recomputed",
    "full, sgd",
    "full, accumulated",
    "full, bfloat16, accumulated",
    "full, several chunks",
    "full, recomputed, accumulated",
)
LARGE = {
    "above 2 GB": ({"hidden": 256, "blocks": 2}, {"rows": 7, "longest": 1025}),
    "above 2 GB, recomputed": (
        {"hidden": 256, "blocks": 2, "vocab": 32000},
        {"rows": 8, "longest": 1025, "checkpoint": True},
    ),
}
LARGE_STEPS = 2
BESIDE = {
    "lora": (WIDE, {"rows": 4, "streams": 2}),
    "lora, long rows": (SMALL, {"rows": 3, "longest": 513, "streams": 2}),
    "lora, three streams, accumulated, validation": (
        WIDE,
        {"rows": 5, "streams": 3, "micro": 2, "validation": 512},
    ),
    "lora, others stored": (WIDE | {"blocks": 5}, {"num_layers": 2, "cached": True, "streams": 2}),
    "lora, vocabulary of Llama 3": (
        SMALL | {"vocab": 128256},
        {"rows": 2, "longest": 33, "streams": 2},
    ),
    "recomputed": (WIDE | {"blocks": 4}, {"rows": 4, "checkpoint": True, "streams": 2}),
    "head": (WIDE, {"mode": "head", "rows": 4, "streams": 2}),
    "full": (WIDE, {"mode": "full", "rows": 4, "streams": 2}),
    "full, short": (WIDE, {"mode": "full", "rows": 2, "longest": 17, "streams": 2}),
    "full, accumulated": (WIDE, {"mode": "full", "micro": 3, "longest": 65, "streams": 2}),
    "full, vocabulary of Llama 3": (
        {"hidden": 32, "blocks": 1, "vocab": 128256, "tie_word_embeddings": False},
        {"mode": "full", "rows": 2, "longest": 17, "streams": 2},
    ),
}
FIRST = ("lora, three streams, accumulated, validation", "recomputed", "full, accumulated")


def measured_peak(folder, asked, num_steps=NUM_STEPS, **environment):
    """Train in a separate process, and return its peak in bytes."""
    command = [sys.executable, "-m", "tests.support.measured_step"]
    facts = json.dumps({"folder": str(folder), **asked})
    done = subprocess.run(
        [*command, facts, str(num_steps)],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def compare(tmp_path, case, shape, asked, num_steps=NUM_STEPS, **environment):
    """Predict and measure; require the ratio that the case is known to have."""
    folder = write_llama(tmp_path, **shape)
    found = predict(request_of(folder, **asked))
    assert found.problem == ""
    measured = measured_peak(folder, asked, num_steps, **environment)
    print(f"predicted {found.peak_bytes / 1e6:.1f} MB, measured {measured / 1e6:.1f} MB, ", end="")
    print(f"ratio {found.peak_bytes / measured:.3f}, {found.peak_phase}")
    margin = MARGINS.get(case, MARGIN_OF_STREAMS if "streams" in asked else MARGIN)
    assert found.peak_bytes / measured == pytest.approx(RATIOS.get(case, 1), abs=margin)
    return measured


@pytest.mark.parametrize(
    ("case", "shape", "asked"),
    [
        pytest.param(name, *case, id=name, marks=[pytest.mark.exhaustive] if name in MORE else [])
        for name, case in MEASURED.items()
    ],
)
def test_the_peak_is_predicted(tmp_path, case, shape, asked):
    compare(tmp_path, case, shape, asked, MLX_DISABLE_COMPILE="1")


@pytest.mark.parametrize(
    ("case", "shape", "asked"),
    [
        pytest.param(name, *case, id=name, marks=[] if name in FIRST else [pytest.mark.exhaustive])
        for name, case in BESIDE.items()
    ],
)
def test_the_peak_of_streams_is_predicted(tmp_path, case, shape, asked):
    compare(tmp_path, f"streams, {case}", shape, asked, MLX_DISABLE_COMPILE="1")


def test_documents_that_go_through_frozen_blocks_side_by_side_are_all_counted(tmp_path):
    write_llama(tmp_path, **WIDE)
    none, one, two = (
        predict(
            request_of(tmp_path, num_layers=1, cached=True, rows=2, streams=streams, longest=size)
        )
        for streams, size in ((1, 2), (1, 129), (2, 129))
    )
    held = one.weight_bytes + one.trainable_bytes + one.state_bytes
    own = one.phases["frozen blocks"] - held
    assert own > none.phases["frozen blocks"] - held > 0
    assert two.phases["frozen blocks"] - held == 2 * own


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["adam", "lion", "adafactor"])
def test_the_peak_of_other_optimizers_is_predicted(tmp_path, name):
    asked = {"mode": "full", "optim": name, "longest": 17}
    compare(tmp_path, f"full, {name}", WIDE, asked, MLX_DISABLE_COMPILE="1")


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", LARGE)
def test_the_peak_of_a_large_step_is_predicted(tmp_path, case):
    assert compare(tmp_path, case, *LARGE[case], LARGE_STEPS) > 2e9


def test_scoring_contests_counts_only_where_steps_leave_blocks_out(tmp_path):
    write_llama(tmp_path, **WIDE)
    asked = {"mode": "head", "validation": 1024, "conflicts": True}
    stored, run = (predict(request_of(tmp_path, cached=each, **asked)) for each in (True, False))
    assert stored.peak_phase == "conflicts"
    assert "conflicts" not in run.phases
    assert run.phases["validation"] == pytest.approx(stored.phases["conflicts"], rel=0.02)

"""Samples of a validation: what is written of them, and what is shown."""

import inspect
import json
from types import SimpleNamespace

from pipeline.evaluate.samples import SAMPLES, sample_rows, shown_samples
from pipeline.generate.prompts import Prompt

ROWS = [
    {
        "prompt": "5 6",
        "reference": "7",
        "base": "b0",
        "base_finish_reason": "stop",
        "tuned": "t0",
        "tuned_finish_reason": "length",
    },
    {
        "prompt": "8",
        "reference": None,
        "base": "b1",
        "base_finish_reason": "stop",
        "tuned": "t1",
        "tuned_finish_reason": "stop",
    },
]


def test_a_row_has_what_the_data_and_both_models_answer():
    answers = SimpleNamespace(text_of=lambda ids: " ".join(map(str, ids)))
    found = {
        name: [{"text": row[name], "finish_reason": row[f"{name}_finish_reason"]} for row in ROWS]
        for name in ("base", "tuned")
    }
    prompts = [Prompt([5, 6], [7]), Prompt([8], [])]
    assert inspect.unwrap(sample_rows)(answers, prompts, **found) == ROWS


def test_they_are_shown_below_each_other(tmp_path):
    (tmp_path / SAMPLES).write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert shown_samples(tmp_path).splitlines() == [
        "validate: 2 samples, shortened; models/validation/samples.jsonl has them whole",
        "  prompt     5 6",
        "  reference  7",
        "  base       b0",
        "  tuned      t0",
        "",
        "  prompt     8",
        "  base       b1",
        "  tuned      t1",
    ]

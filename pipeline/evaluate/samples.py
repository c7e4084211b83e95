"""Samples: what the base and the tuned model answer to the same prompts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.generate.answers import AnswerGenerator
from pipeline.generate.prompts import Prompt
from pipeline.generate.transcript import transcript

SAMPLES = "samples.jsonl"
HEADLINE = f"validate: {{}} samples, shortened; models/validation/{SAMPLES} has them whole"
SHOWN = ("prompt", "reference", "base", "tuned")


def sample_rows(
    answers: AnswerGenerator, prompts: Sequence[Prompt], **models: Sequence[dict[str, str]]
) -> list[dict[str, Any]]:
    """Return a row for each prompt, with what the data and the models answer.

    Args:
        answers: writes tokens as text.
        prompts: that were asked.
        models: text and finish reason of each answer, by the name of the model.
    """
    rows = []
    for number, prompt in enumerate(prompts):
        reference = answers.text_of(prompt.reference) if prompt.reference else None
        row = {"prompt": answers.text_of(prompt.ids), "reference": reference}
        for name, found in models.items():
            answer = found[number]
            row |= {name: answer["text"], f"{name}_finish_reason": answer["finish_reason"]}
        rows.append(row)
    return rows


def shown_samples(folder: Path) -> str:
    """Write the samples in models/validation below each other, shortened."""
    lines = (folder / SAMPLES).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    shown = [{name: row[name] for name in SHOWN if row[name] is not None} for row in rows]
    return f"{HEADLINE.format(len(rows))}\n{transcript(shown)}"

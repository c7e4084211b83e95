"""What the newest checkpoint of a training answers to held-out prompts.

python -m stages.sample SPECIFICATION_FILE LIMIT_BYTES

The supervisor of a training starts it between two workers (`train.steps_per_sample`).
"""

import sys
from pathlib import Path

from pipeline.data.store import TokenStore
from pipeline.device import limit_mlx_memory
from pipeline.generate.answers import AnswerGenerator
from pipeline.generate.prompts import held_out_prompts
from pipeline.generate.transcript import transcript
from pipeline.machine import die_with_parent
from pipeline.train.newest import newest_model
from pipeline.train.protocol import RunSpec

NUM_PROMPTS, MAX_TOKENS = 2, 64


def samples(spec: RunSpec) -> list[dict[str, str]]:
    """Return what the newest weights answer to prompts of the validation split.

    Args:
        spec: of the run.
    """
    answers = AnswerGenerator(Path(spec.base), MAX_TOKENS)
    store = TokenStore(Path(spec.prepared) / "validation")
    prompts = held_out_prompts(store, NUM_PROMPTS, answers.has_room)
    model = newest_model(spec)
    return [
        {
            "prompt": answers.text_of(prompt.ids),
            "reference": answers.text_of(prompt.reference),
            "now": answers.answer(model, prompt.ids).text,
        }
        for prompt in prompts
    ]


def main() -> None:
    """Print them below each other."""
    die_with_parent()
    spec_file, limit_bytes = sys.argv[1:]
    limit_mlx_memory(int(limit_bytes))
    print(transcript(samples(RunSpec.read(Path(spec_file)))))


if __name__ == "__main__":
    main()

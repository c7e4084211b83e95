"""One prompt, answered by the base and the tuned model."""

from omegaconf import DictConfig

from pipeline.config.arguments import Flag
from pipeline.config.stage import stage
from pipeline.config.stage_paths import Paths
from pipeline.device import limit_mlx_memory, warn_of_slow_type
from pipeline.generate.answers import AnswerGenerator
from pipeline.generate.ask import (
    TUNED,
    asked_text,
    chosen_models,
    loaded_models,
    print_answer,
)
from pipeline.machine import available_memory_bytes


@stage(
    "model.dtype",
    "generate",
    flags=(
        Flag("prompt", "ask this; `-` reads it from standard input", "TEXT"),
        Flag("only", "ask one model: base or tuned", "MODEL"),
    ),
)
def main(config: DictConfig, paths: Paths, prompt: str = "", only: str = "") -> None:
    """Generate: prints what the base and the tuned model answer to a prompt; writes no files.

    The prompt is asked as in training, in the chat template where the tokenizer has one. With
    --only, standard output has nothing but the answer.
    """
    names, text = chosen_models(only), asked_text(prompt)
    warn_of_slow_type(config.model.dtype)
    base = paths.read("models/base")
    trained = paths.read("models/trained") if TUNED in names else None
    limit_mlx_memory(available_memory_bytes())
    answers = AnswerGenerator(base, config.generate.max_tokens)
    [asked] = answers.prompts({"--prompt": text})
    for name, model in loaded_models(names, base, config.model.dtype, trained):
        print_answer(name, model, answers, asked, alone=bool(only))


if __name__ == "__main__":
    main()

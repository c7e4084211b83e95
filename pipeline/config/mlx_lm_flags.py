"""What somebody types who knows `mlx_lm.lora`, and what it is called here."""

import itertools
from collections.abc import Iterator

FLAGS = {
    "--model": "model=local model.source=FOLDER (or a hub id with model.allow_network=true)",
    "--train": "nothing: `python -m stages.train` trains",
    "--data": "data=jsonl data.path=FOLDER, or data=huggingface data.huggingface.name=NAME",
    "--fine-tune-type": "train.mode=lora, dora or full",
    "--optimizer": "optim=adamw, adam, sgd, adafactor, lion or muon",
    "--mask-prompt": "nothing: of rows with a prompt only the answer is learnt",
    "--num-layers": "lora.num_layers=N; null (the default), where mlx-lm has -1: all",
    "--batch-size": "train.batch_size=N",
    "--iters": "train.num_steps=N, or train.num_epochs=N with train.num_steps=null",
    "--val-batches": "train.validation_documents=N; null: all",
    "--learning-rate": "optim.learning_rate=RATE",
    "--steps-per-report": "nothing: each step is in plots/train.csv",
    "--steps-per-eval": "train.steps_per_eval=N",
    "--grad-accumulation-steps": "train.grad_accumulation_steps=N, which splits a step's documents "
    "(mlx-lm takes N batches a step)",
    "--resume-adapter-file": "train.init_from=FOLDER for a new run from an adapter; an "
    "interrupted run resumes when the same command is started again",
    "--adapter-path": "hydra.run.dir=FOLDER; the adapter is in its models/trained",
    "--save-every": "train.steps_per_save=N",
    "--test": "`python -m stages.validate inputs=latest`",
    "--test-batches": "validate.documents=N",
    "--max-seq-length": "data.max_seq_len=N",
    "--config": "a file in conf/experiment/, chosen with experiment=NAME",
    "-c": "a file in conf/experiment/, chosen with experiment=NAME",
    "--grad-checkpoint": "train.grad_checkpoint=true",
    "--clear-cache-threshold": "train.memory_limit_gb=GB, which bounds the whole process",
    "--report-to": "nothing: `dvc exp show` and `dvc metrics diff` compare runs",
    "--project-name": "hydra.run.dir=FOLDER",
    "--seed": "seed=N",
    "--trust-remote-code": "nothing: code of a model folder is never run",
}
"""What is written in place of each flag of mlx-lm 0.32."""


def answers(arguments: list[str]) -> Iterator[str]:
    """Name the flags of mlx-lm among arguments, with what is written here."""
    for argument, following in itertools.pairwise([*arguments, ""]):
        flag, is_joined, value = argument.partition("=")
        value = value if is_joined else following
        if flag in FLAGS and (flag != "-c" or value.endswith((".yaml", ".yml"))):  # Hydra has `-c`
            yield f"{flag}: {FLAGS[flag]}"

"""SmolLM2-135M-Instruct, which `make smollm2` fetches, and one training of it that tests share."""

import json

import pytest

from pipeline.data.preparation.prepare import prepare
from pipeline.external.gguf.convert import converted
from pipeline.external.tokenizer_files import tokenizer_hash
from pipeline.files import read_json
from pipeline.model.network.base import write_manifest
from tests.support.gguf_files import write_float32_copy
from tests.support.prepared import SETTINGS
from tests.support.torch_training import Recipe
from tests.support.training import Training
from tools.fetch_smollm2 import FILE

NUM_ROWS, MAX_SEQ_LEN, MAX_CHARACTERS = 500, 128, 260
DEADLINE_SECONDS = 600
RECIPE = Recipe(20, 1e-3, warmup_fraction=0.1, weight_decay=0.1, max_grad_norm=0.5)
CHANGES = {
    "data__arrangement": "bucketed",
    "lora__rank": 8,
    "lora__alpha": 16.0,
    "lora__dropout": 0.0,
    "objective__distrust": {
        "mode": "none",
        "alpha": 2.7,
        "min_weight": 0.1,
        "max_weight": 1.9,
    },
    "optim__learning_rate": RECIPE.learning_rate,
    "optim__weight_decay": RECIPE.weight_decay,
    "optim__warmup_fraction": RECIPE.warmup_fraction,
    "optim__final_fraction": 0.0,
    "train__num_steps": RECIPE.num_steps,
    "train__batch_size": 4,
    "train__grad_accumulation_steps": 1,
    "train__max_grad_norm": RECIPE.max_grad_norm,
    "train__prefix_cache_gb": 0.0,
    "train__steps_per_eval": 20,
    "train__steps_per_save": 4,
    "train__validation_documents": 8,
}
"""20 steps of 4 documents of at most 128 tokens, without chance in them, as torch can repeat."""


@pytest.fixture(scope="session")
def smollm2():
    """The GGUF file of the model."""
    if not FILE.is_file():
        pytest.skip("SmolLM2 is absent: run `make smollm2`")
    return FILE


@pytest.fixture(scope="session")
def smollm2_float32(smollm2, tmp_path_factory):
    """The same GGUF file with every tensor in float32."""
    path = tmp_path_factory.mktemp("smollm2") / "float32.gguf"
    write_float32_copy(smollm2, path)
    return path


@pytest.fixture(scope="session")
def smollm2_base(smollm2, tmp_path_factory):
    """A folder as the stage weights leaves it; the weights lie where the file is converted to."""
    base, folder = tmp_path_factory.mktemp("base"), converted(smollm2)
    write_manifest(base, folder, str(smollm2), tokenizer_hash(folder))
    return base


def chat_of(text):
    """Turn a row of WikiSQL, whose last line is the answer, into a question and an answer."""
    question, _, answer = text.rpartition("\nA: ")
    question = question.replace("\nQ: ", "\n")
    turns = [("user", question), ("assistant", answer)]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.fixture(scope="session")
def smollm2_rows(samples, smollm2, tmp_path_factory):
    """Prepared questions and answers, short enough to stay whole."""
    folder, model = tmp_path_factory.mktemp("chat"), converted(smollm2)
    lines = (samples / "data/wikisql/train.jsonl").read_text().splitlines()
    texts = [text for line in lines if len(text := json.loads(line)["text"]) <= MAX_CHARACTERS]
    rows = [json.dumps(chat_of(text)) for text in texts[:NUM_ROWS]]
    assert len(rows) == NUM_ROWS
    (folder / "rows.jsonl").write_text("\n".join(rows))
    settings = {**vars(SETTINGS), "path": folder / "rows.jsonl", "max_seq_len": MAX_SEQ_LEN}
    settings |= {
        "tokenizer_source": model,
        "vocab_size": read_json(model / "config.json")["vocab_size"],
    }
    prepare(type(SETTINGS)(**settings), folder / "prepared")
    return folder / "prepared"


class World:
    """A base and prepared data that lie in folders of their own, as a training takes them."""

    def __init__(self, base, prepared):
        self.folders = {"base": base, "prepared": prepared}

    def __truediv__(self, name):
        return self.folders[name]


@pytest.fixture(scope="session")
def smollm2_run(smollm2_base, smollm2_rows, tmp_path_factory):
    """Make a training of the model; the first one, which nothing disturbs, is made once."""
    world = World(smollm2_base, smollm2_rows)

    def make(folder):
        run = Training(world, folder, {}, CHANGES)
        run.deadline_seconds = DEADLINE_SECONDS
        return run

    make.undisturbed = make(tmp_path_factory.mktemp("undisturbed") / "run")
    make.undisturbed.complete(OPENBLAS_NUM_THREADS="2")
    return make

"""The stage that provides the base model."""

import shutil

import pytest

from pipeline.data.tokenize.tokenizer import load_tokenizer, train_tokenizer
from pipeline.errors import ModelError
from stages.weights import require_same_tokenizer
from tests.support.prepared import CHATML, sentences, write_rows
from tests.support.repository import ROOT, stage


def test_another_tokenizer_is_refused_and_another_template_is_not(tmp_path):
    train_tokenizer(iter(sentences(9)), 300, tmp_path / "source")
    prepared = shutil.copytree(tmp_path / "source", tmp_path / "prepared")
    (prepared / "chat_template.jinja").write_text(CHATML)
    require_same_tokenizer(prepared, tmp_path / "source", "NAME")
    train_tokenizer(iter(sentences(9)), 290, prepared)
    with pytest.raises(ModelError, match=r"model.source=NAME: its tokenizer is not the one that"):
        require_same_tokenizer(prepared, tmp_path / "source", "NAME")


def test_a_template_of_ones_own_goes_with_the_base(samples, tmp_path):
    (tmp_path / "own.jinja").write_text("{{ tone }}" + CHATML.replace("<eos>", "</s>"))
    messages = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    rows = write_rows(tmp_path / "rows/train.jsonl", [{"messages": messages}] * 9)
    write_rows(tmp_path / "rows/valid.jsonl", [{"messages": messages}])
    model = ["model=local", f"model.source={samples / 'models/stories260K'}"]
    data = ["data=jsonl", f"data.path={rows.parent}"]
    own = [f"data.chat_template={tmp_path / 'own.jinja'}", "+data.template_kwargs.tone=calm"]
    stage(ROOT, "prepare", *data, *own, *model, f"hydra.run.dir={tmp_path / 'one'}")
    stage(
        ROOT, "weights", *model, f"inputs={tmp_path / 'one'}", f"hydra.run.dir={tmp_path / 'two'}"
    )
    tokenizer = load_tokenizer(tmp_path / "two/models/base")
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "calm<|user|>the cat</s><|assistant|>sat</s>"
    shown = stage(ROOT, "prepare", *data, *own, *model, "--show", "1").stdout
    assert "<|assistant|>⟦sat⟧⟨</s>⟩" in shown

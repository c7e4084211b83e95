"""Whether the output head is the embedding."""

import pytest

from pipeline.model.source.folder import Tensor, WeightFile
from pipeline.model.source.ties import tied_by_files

EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"


def files(tmp_path, *names):
    """Return the header of a file with these tensors."""
    return [WeightFile(tmp_path / "a", tuple(Tensor(name, "F32", (1,)) for name in names))]


@pytest.mark.parametrize(
    ("names", "tied"),
    [
        ((f"model.{EMBEDDING}", HEAD), False),
        ((f"model.{EMBEDDING}",), True),
        ((f"language_model.model.{EMBEDDING}", f"language_model.{HEAD}"), False),
        ((f"model.language_model.{EMBEDDING}",), True),
        ((EMBEDDING, "my_lm_head.weight"), True),
    ],
)
def test_the_files_decide_what_config_json_leaves_open(tmp_path, names, tied):
    header = files(tmp_path, *names)
    for config in ({}, {"tie_word_embeddings": None}):
        assert tied_by_files(config, header) == {"tie_word_embeddings": tied}
    nested = tied_by_files({"text_config": {"a": 1}}, header)
    assert nested["text_config"] == {"a": 1, "tie_word_embeddings": tied}


@pytest.mark.parametrize("stated", [True, False])
def test_what_config_json_states_is_kept(tmp_path, stated):
    header = files(tmp_path, f"model.{EMBEDDING}", HEAD)
    config = {"tie_word_embeddings": stated}
    assert tied_by_files(config, header) is config
    nested = {"text_config": config}
    assert tied_by_files(nested, header) is nested


def test_names_of_other_kinds_decide_nothing(tmp_path):
    assert tied_by_files({}, files(tmp_path, "wte.weight", "embed_out.weight")) == {}

"""What `--plan` asks: which base, and which documents."""

import json

import pytest
from omegaconf import OmegaConf

from pipeline.train.finetune import train_settings
from pipeline.train.plan.question import assumed_documents, base_folder
from stages.params import composed
from tests.support.plans import write_llama


def test_a_model_that_is_yet_to_be_made_has_its_config_alone(tmp_path):
    folder = base_folder(composed([]).model, tmp_path / "made")
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    written = json.loads((folder / "config.json").read_text())
    assert (written["hidden_size"], written["vocab_size"]) == (96, 640)


def test_a_model_that_is_there_is_read_where_it_lies(tmp_path):
    source = write_llama(tmp_path / "llama")
    model = OmegaConf.create({"source": str(source), "revision": None, "allow_network": False})
    assert base_folder(model, tmp_path / "made") == source
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("longest", "found"), [(None, 2048), (100, 100)])
def test_documents_that_are_not_there_are_as_long_as_allowed(tmp_path, longest, found):
    length = f"data.max_seq_len={longest or 'null'}"
    config = composed(["data=stdlib", "train.prefix_cache_gb=0", length])
    folder = write_llama(tmp_path, vocab=512)
    facts = assumed_documents(config, train_settings(config), folder)
    assert (facts.longest_tokens, facts.vocab_size) == (found, 512)
    assert facts.num_validated == 16384 // found if found == 2048 else 163
    assert (facts.cached_prefix, facts.has_contests) == (False, False)
    contests = assumed_documents(composed([]), train_settings(config), folder)
    assert (contests.cached_prefix, contests.has_contests) == (True, True)

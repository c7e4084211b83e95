"""What dvc.yaml has of each stage."""

import re

from pipeline.config.graph import code_hashes, maker_of
from pipeline.files import ROOT, sha256_path


def test_only_outputs_have_a_maker():
    assert maker_of("pipeline/config/stage.py") == ""
    assert maker_of("data/prepared_too") == ""


def test_the_hashes_of_code_are_those_of_what_computes():
    hashes = code_hashes("train")
    assert hashes["stages/train.py"] == sha256_path(ROOT / "stages/train.py")
    assert "pipeline/train/step.py" in hashes
    assert "data/prepared" not in hashes
    assert not [name for name in hashes if re.search("supervise|train/plan", name)]

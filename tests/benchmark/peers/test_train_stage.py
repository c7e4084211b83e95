"""Trainings of the comparison that run the train stage."""

import pytest

from pipeline.benchmark.peers.child import NotMeasured
from pipeline.benchmark.peers.corpus import Material
from pipeline.benchmark.peers.train_stage import run_train_stage


def test_the_stage_reads_the_material_and_its_failure_gives_the_end_of_its_output(tmp_path):
    for name in ("model", "rows", "prepared"):
        (tmp_path / name).mkdir()
    material = Material(*(tmp_path / name for name in ("model", "rows", "prepared")), num_rows=3)
    with pytest.raises(NotMeasured, match=r"stages.train ended with exit status 1: .*lora\.rnak"):
        run_train_stage(tmp_path / "run", material, ["lora.rnak=3"])
    assert (tmp_path / "run/inputs/models/base").resolve() == tmp_path / "model"
    assert (tmp_path / "run/inputs/data/prepared").resolve() == tmp_path / "prepared"

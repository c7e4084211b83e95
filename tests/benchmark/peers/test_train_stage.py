"""Trainings of the comparison that run the train stage."""

import pytest

from pipeline.benchmark.peers.child import NotMeasured
from pipeline.benchmark.peers.corpus import Material
from pipeline.benchmark.peers.train_stage import lay_out_inputs, run_train_stage


def test_material_is_laid_out_as_an_earlier_run(tmp_path):
    for name in ("model", "rows", "prepared"):
        (tmp_path / name).mkdir()
    material = Material(*(tmp_path / name for name in ("model", "rows", "prepared")), num_rows=3)
    folder = lay_out_inputs(tmp_path / "inputs", material)
    assert (folder / "models/base").resolve() == tmp_path / "model"
    assert (folder / "data/prepared").resolve() == tmp_path / "prepared"


def test_a_stage_that_fails_gives_the_end_of_its_output(tmp_path):
    with pytest.raises(NotMeasured, match=r"stages.train ended with exit status 1: .*lora\.rnak"):
        run_train_stage(tmp_path / "run", tmp_path, ["lora.rnak=3"])

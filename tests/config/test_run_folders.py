"""The folder of a run by hand is its own, whatever else begins at that moment."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from pipeline.config.run_folders import unused_folder
from pipeline.files import ROOT


def test_runs_of_one_second_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(unused_folder, [str(tmp_path / "runs/12-00-00")] * 40))
    names = {f"12-00-00_{number}" for number in range(2, 41)} | {"12-00-00"}
    assert {Path(path).name for path in found} == names
    assert len(found) == len(names)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == names


def test_a_file_of_that_name_is_left_alone(tmp_path):
    (tmp_path / "run").write_text("x")
    assert unused_folder(str(tmp_path / "run")) == str(tmp_path / "run_2")


def test_where_no_folder_can_be_made_the_name_is_given_to_who_will_tell(tmp_path):
    (tmp_path / "runs").write_text("x")
    assert unused_folder(str(tmp_path / "runs/run")) == str(tmp_path / "runs/run")


def test_every_folder_that_conf_chooses_is_such_a_one():
    for name in ("config", "repro"):
        places = yaml.safe_load((ROOT / f"conf/{name}.yaml").read_text())["hydra"]
        chosen = [places[kind]["dir"] for kind in ("run", "sweep")]
        assert all(each == "." or each.startswith("${unused_folder:") for each in chosen)

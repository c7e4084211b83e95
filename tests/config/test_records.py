"""What outputs were made of is recorded beside them, and in dvc.lock."""

import pytest

from pipeline.config import records as module
from pipeline.config.composition import composed
from pipeline.config.records import FOLDER, read_record, record_of, recorded_by_dvc


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    record = record_of("weights", composed([]), {"data/prepared": "hash"})
    record.write(tmp_path)
    assert read_record(tmp_path, "weights") == record
    assert read_record(tmp_path, "train") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stage": "weights"}'])
def test_a_damaged_record_is_none(tmp_path, text):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "weights.json").write_text(text)
    assert read_record(tmp_path, "weights") is None


@pytest.mark.parametrize(
    ("overrides", "is_other"),
    [
        (["model.scratch.hidden_size=64"], True),
        (["seed=8"], True),
        (["lora.rank=3"], False),  # it is not read
        (["data=stdlib"], False),
    ],
)
def test_the_key_changes_with_what_the_stage_reads(overrides, is_other):
    first, second = (
        record_of("weights", composed([]), {}),
        record_of("weights", composed(overrides), {}),
    )
    assert (first.key != second.key) is is_other


def test_the_key_changes_with_data_files_and_code(tmp_path, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    config = composed(["data=jsonl", f"data.path={rows}"])
    keys = {record_of("prepare", config, {}).key, record_of("prepare", config, {"x": "y"}).key}
    rows.write_text('{"text": "another"}\n')
    keys.add(record_of("prepare", config, {}).key)
    monkeypatch.setattr(module, "code_hashes", lambda name: {"code": "other"})
    keys.add(record_of("prepare", config, {}).key)
    assert len(keys) == 4


def test_what_cannot_change_a_result_is_no_part_of_a_record():
    often = composed(["train.reload_interval_steps=3", "train.steps_per_save=2"])
    assert record_of("train", often, {}) == record_of("train", composed([]), {})


def test_dvc_records_the_parameters_of_its_outputs():
    parameters, files = recorded_by_dvc("prepare")
    assert parameters == module.parameters_of(composed([]), module.sections_of("prepare"))
    assert files == {"data": {}, "tokenizer": {}}
    assert "train.steps_per_save" not in recorded_by_dvc("train")[0]  # it changes no result
    assert recorded_by_dvc("weights")[0]["model.scratch.rms_norm_eps"] == 1e-5


@pytest.mark.parametrize("text", [None, "", "[]", "stages: 7", "stages: {}", "\0", "stages: ["])
def test_a_damaged_lock_records_nothing(tmp_path, monkeypatch, text):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    if text is not None:
        (tmp_path / "dvc.lock").write_text(text)
    assert recorded_by_dvc("prepare") == ({}, {})

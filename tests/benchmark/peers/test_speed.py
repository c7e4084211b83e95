"""Parts of the comparison in which other programs train the same as Tidewheel."""

import pytest

from pipeline.benchmark.peers import speed
from pipeline.benchmark.peers.child import NotMeasured
from pipeline.benchmark.peers.job import Outcome
from pipeline.benchmark.peers.programs import MLX_LM, OURS
from pipeline.benchmark.peers.results import ratio
from tests.support.small_peers import lay_out_rows, set_up


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "rows").mkdir()
    return lay_out_rows(tmp_path / "rows")


def test_bisection_finds_the_first_snapshot_that_is_good_enough(rows, tmp_path, monkeypatch):
    comparison = set_up(rows, tmp_path / "work")
    losses = {"step-00000002": 8.0, "step-00000004": 7.0, "step-00000006": 6.0, MLX_LM: 6.5}
    scored = []

    def loss(material, adapter):
        scored.append(adapter.name if adapter else "base")
        return losses.get(scored[-1], 5.0) if adapter else 9.0

    monkeypatch.setattr(speed, "validation_loss", loss)
    outcomes = {OURS: Outcome([1.0] * 8, [1] * 8), MLX_LM: Outcome([3.0] * 8, [1] * 8)}
    speed.record_seconds(comparison, 1, outcomes, interval=2)
    found = ratio("all_blocks", "seconds_to_loss", MLX_LM, OURS)(comparison.results)
    assert found.value == pytest.approx(21 / 4)  # of 7 steps each; half way from step 4 to 6
    assert scored == [MLX_LM, "step-00000004", "step-00000008", "step-00000006"]  # each once


def test_a_loss_that_we_do_not_reach_is_the_reason_for_no_seconds(rows, tmp_path, monkeypatch):
    comparison = set_up(rows, tmp_path / "work")
    monkeypatch.setattr(speed, "validation_loss", lambda material, adapter: 9.0 - (adapter is None))
    outcomes = {OURS: Outcome([1.0] * 8, [1] * 8), MLX_LM: Outcome([3.0] * 8, [1] * 8)}
    speed.record_seconds(comparison, 1, outcomes, interval=2)
    with pytest.raises(NotMeasured, match=r"a loss of 9\.0000 is no lower than that at the begin"):
        ratio("all_blocks", "seconds_to_loss", MLX_LM, OURS)(comparison.results)

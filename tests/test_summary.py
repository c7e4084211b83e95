"""What came of a stage fits in a line, whatever metrics it has."""

import json

import pytest

from pipeline.files import ROOT
from pipeline.summary import LINES, result_line, use_lines

PREPARED = {
    "rows": 3000,
    "truncated_documents": 0,
    "truncated_tokens": 0,
    "train_documents": 2707,
    "train_tokens": 900,
    "train_longest": 570,
    "validation_documents": 143,
    "validation_tokens": 50,
    "validation_longest": 31,
}
HELD_OUT = {
    "base": {"loss": 1.322, "perplexity": 3.75},
    "tuned": {"loss": 0.824, "perplexity": 2.28},
    "loss_difference_low": -0.535,
    "loss_difference_high": -0.462,
}
NO_INTERVAL = {"loss_difference_low": None, "loss_difference_high": None}
CONTEST = {"contest": {"base": {"share": 0.498}, "tuned": {"share": 1.0}}}


@pytest.mark.parametrize(
    ("stage", "metrics", "line"),
    [
        (
            "prepare",
            PREPARED,
            "3,000 rows -> 2,707 train / 143 valid / 0 test; longest 570 tokens; 0 truncated",
        ),
        (
            "prepare",
            PREPARED | {"truncated_documents": 60, "truncated_tokens": 50},
            "3,000 rows -> 2,707 train / 143 valid / 0 test; longest 570 tokens; 60 truncated, "
            "which dropped 5.0% of all tokens",
        ),
        ("weights", {"base_tensors": 272, "base_bytes": 269060552}, "272 tensors, 269.1 MB"),
        (
            "validate",
            {"held_out": HELD_OUT},
            "loss 1.322 -> 0.824 (-0.535 to -0.462), perplexity 3.75 -> 2.28",
        ),
        (
            "validate",
            {"held_out": HELD_OUT | NO_INTERVAL, "conflicts": CONTEST},
            "loss 1.322 -> 0.824, perplexity 3.75 -> 2.28; for the primary source 49.8% -> 100.0%",
        ),
        (
            "export",
            {"export_checkpoint": "final", "adapter": {"max_abs_logit_difference": 1.13e-5}},
            "adapter (logits within 1.1e-05 of the trained model)",
        ),
        (
            "benchmark",
            {
                "train_tokens_per_second": 17467.2,
                "roofline_share": 0.613,
                "generation_tokens_per_second": 1234.5,
            },
            "training 17,467 tokens/s, 61% of what this machine can do; generation 1,234 tokens/s",
        ),
        ("benchmark", {"rounds": 3}, "metrics/benchmark.json and plots/peers.png compare the prog"),
    ],
)
def test_a_stage_has_a_line_of_result(tmp_path, stage, metrics, line):
    (tmp_path / "metrics").mkdir()
    (tmp_path / f"metrics/{stage}.json").write_text(json.dumps(metrics))
    found = result_line(stage, tmp_path)
    assert found.startswith(f"{stage}: {line}")
    assert found == f"{stage}: {line}" or "rounds" in metrics


def test_without_metrics_there_is_no_line(tmp_path):
    assert result_line("train", tmp_path) is None
    assert result_line("params", ROOT) is None


@pytest.mark.parametrize("stage", sorted(LINES.keys() - {"benchmark"}))
def test_the_metrics_of_the_default_run_have_a_line(stage):
    if not (ROOT / f"metrics/{stage}.json").exists():
        pytest.skip("the default run is not here: make repro")
    assert len(result_line(stage, ROOT)) < 160


def test_the_commands_name_the_run():
    assert use_lines(None)[0].endswith('python -m stages.generate --prompt "..."')
    assert use_lines("runs/train/x")[1].endswith("python -m stages.validate inputs=runs/train/x")

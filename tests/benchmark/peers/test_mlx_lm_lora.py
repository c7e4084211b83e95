"""The program `mlx_lm.lora`, run through its command line."""

from pipeline.benchmark.peers.mlx_lm_lora import outcome_of


def test_padding_that_mlx_lm_trains_is_not_counted():
    reports = [
        {"iterations_per_second": 2.0, "trained_tokens": 40, "peak_memory": 1.5, "train_loss": 3.0},
        {"iterations_per_second": 4.0, "trained_tokens": 70, "peak_memory": 1.0, "train_loss": 2.0},
    ]
    found = outcome_of(reports, batch_size=4)
    assert (found.seconds, found.num_targets) == ([0.5, 0.25], [36, 26])
    assert found.peak_bytes == 1_500_000_000
    assert found.rate(1) == 104

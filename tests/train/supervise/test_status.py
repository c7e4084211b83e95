"""What another process is told of a running training."""

from pipeline.machine import Held
from pipeline.train.supervise.status import Status

STATUS = Status(
    title="train",
    state="running",
    process=42,
    step=100,
    num_steps=400,
    seconds_per_step=0.5,
    tokens_per_second=12345.6,
    footprint_bytes=1_500_000_000,
    peak_footprint_bytes=1_700_000_000,
    peak_resident_bytes=1_900_000_000,
    limit_bytes=19_200_000_000,
    reloads=3,
    unix_seconds=0.0,
)


def test_it_comes_back_as_it_was_written(tmp_path):
    assert Status.read(tmp_path) is None
    STATUS.write(tmp_path)
    assert Status.read(tmp_path) == STATUS


def test_peaks_of_earlier_supervisors_are_found(tmp_path):
    assert Status.peak_of(tmp_path) == Held()
    STATUS.write(tmp_path)
    assert Status.peak_of(tmp_path) == Held(1_700_000_000, 1_900_000_000)


def test_the_line_has_step_rate_footprint_limit_reloads_and_eta():
    assert STATUS.line() == (
        "train: step 100/400, 2.00 steps/s, 12,346 tokens/s, footprint 1.50 GB of 19.20 GB, "
        "3 reloads, 00:02:30 to go (process 42)"
    )


def test_a_file_of_something_else_is_nothing(tmp_path):
    (tmp_path / "status.json").write_text('{"step": 1}')
    assert Status.read(tmp_path) is None

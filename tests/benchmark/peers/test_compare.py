"""The comparison: all programs train the same, ratios follow from figures, failures are shown."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from omegaconf import OmegaConf

from pipeline.benchmark.bars import draw, write_table
from pipeline.benchmark.peers import compare, rounds
from pipeline.benchmark.peers.child import NotMeasured
from pipeline.benchmark.peers.corpus import SAMPLES, find_corpus, joined
from pipeline.benchmark.peers.job import Job, Outcome
from pipeline.benchmark.peers.mlx_lm_lora import configuration
from pipeline.benchmark.peers.programs import (
    FLOAT32,
    INSTALLED,
    MLX_LM,
    OURS,
    UNCACHED,
    run,
)
from pipeline.benchmark.peers.results import (
    COLUMNS,
    RATIOS,
    Results,
    seconds_to_loss,
)
from pipeline.benchmark.peers.results import summary as summary_of
from pipeline.benchmark.throughput import comparison_rows
from pipeline.config.stage_paths import Paths
from pipeline.data.store import TokenStore
from pipeline.data.tokenize.tokenizer import load_tokenizer
from pipeline.errors import ConfigError, DataError, ModelError
from pipeline.files import read_json
from stages.params import composed
from tests.support.small_peers import SHAPE, lay_out_rows, set_up, settings_with

WANTED = (
    "speedup_vs_mlx_lm",
    "speedup_vs_mlx_lm_as_installed",
    "speedup_vs_torch_peft",
    "speedup_last_quarter_vs_mlx_lm",
    "prefix_cache_share_of_flop_ratio",
    "head_mode_share_of_flop_ratio",
    "large_vocab_peak_memory_vs_mlx_lm",
    "peak_memory_vs_floor",
    "sweep_cost_with_prefix_cache",
    "roofline_share",
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A folder of rows, as `benchmark.peers.rows` names it."""
    return lay_out_rows(tmp_path_factory.mktemp("rows"))


def metrics_of(settings, folder, tell=lambda text: None):
    """Compare, and read the metrics that were written."""
    compare.compare(settings, 3, Paths(folder), tell)
    return read_json(folder / "metrics/benchmark.json")


# Programs


@pytest.fixture(scope="module")
def compared(rows, tmp_path_factory):
    """One real round of ourselves and mlx-lm; kernels are not built, for that takes longer."""
    said, outcomes = [], {}

    def kept(name, job):
        outcomes[name] = run(name, job)
        return outcomes[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_DISABLE_COMPILE", "1")
        patch.setattr(rounds, "run", kept)
        chosen = ["benchmark.peers.parts=[all_blocks]", "benchmark.num_steps=12"]
        settings = settings_with(rows, *chosen)
        metrics = metrics_of(settings, tmp_path_factory.mktemp("run"), said.append)
    return metrics, said, outcomes


def test_both_have_trained_to_the_same_loss(compared):
    metrics, *_ = compared
    assert metrics["not_measured"].keys().isdisjoint({"speedup_vs_mlx_lm", "roofline_share"})
    seconds = metrics["measured"]["all_blocks"]["seconds_to_loss"]
    assert metrics["speedup_vs_mlx_lm"] == pytest.approx(
        seconds[MLX_LM]["median"] / seconds[OURS]["median"]
    )
    loss = metrics["measured"]["all_blocks"]["validation_loss"][MLX_LM]["median"]
    assert loss < 0.95 * np.log(SHAPE["vocab_size"])
    assert 0 < metrics["roofline_share"] < 1


def test_every_key_is_there_with_a_value_or_a_reason(compared):
    metrics, *_ = compared
    assert set(WANTED) <= metrics.keys()
    for name in WANTED:
        assert (metrics[name] is None) == (name in metrics["not_measured"]), name
        assert (metrics[name] is None) != (name in metrics["ranges"]), name
    assert "leaves out last_quarter" in metrics["not_measured"]["speedup_last_quarter_vs_mlx_lm"]
    assert metrics["train_rows"] == 24
    assert metrics["machine"]["blas"]
    json.dumps(metrics, allow_nan=False)


def test_one_sees_who_is_running_in_which_round_and_how_long_it_will_take(compared):
    text = "\n".join(compared[1])
    assert "[1/1 all_blocks] round 1/1: ours, 18 steps ..." in text
    assert "[1/1 all_blocks] round 1/1: mlx_lm, 12 steps ..." in text
    assert "left in this part" in text


def test_an_epoch_has_the_same_targets_for_both(compared):
    """The same files, and padding does not count: the sums over an epoch of six steps tell."""
    ours, theirs = (compared[2][name] for name in (OURS, MLX_LM))
    assert sum(ours.num_targets[:6]) == sum(theirs.num_targets[:6]) > 0
    assert (len(ours.seconds), len(theirs.seconds)) == (18, 12)
    assert min(ours.seconds + theirs.seconds) > 0


def test_torch_has_the_same_targets_in_an_epoch(rows, tmp_path, readers):
    readers("torch"), readers("peft")
    comparison = set_up(rows, tmp_path)
    job = dataclasses.replace(
        comparison.job(comparison.material, 6), output=str(tmp_path / "torch")
    )
    outcome = run(FLOAT32, job)
    total = TokenStore(comparison.material.prepared / "train").total_targets
    assert sum(outcome.num_targets) == total
    assert min(outcome.seconds) > 0


def test_mlx_lm_gets_the_settings_of_the_job():
    job = dataclasses.replace(
        Job("m", "r", "p", "o", 7, 3, 0.1, 5, 11), num_layers=2, grad_checkpoint=True
    )
    found = configuration(job)
    assert found["iters"] == 7
    assert found["batch_size"] == 3
    assert found["learning_rate"] == 0.1
    assert found["seed"] == 11
    assert found["num_layers"] == 2
    assert found["grad_checkpoint"] is True
    assert found["lora_parameters"]["rank"] == 5
    assert found["optimizer_config"]["adamw"]["bias_correction"] is True
    assert configuration(dataclasses.replace(job, num_layers=None))["num_layers"] == -1


def test_a_program_that_fails_says_why_and_the_others_go_on(rows, tmp_path, monkeypatch):
    said, comparison = [], set_up(rows, tmp_path)
    comparison.show = said.append
    broken = dataclasses.replace(
        comparison.job(comparison.material, 2), model=str(tmp_path / "nowhere")
    )
    outcome = Outcome([1.0, 1.0], [5, 5])

    def some(name, job):
        return outcome if name == OURS else run(name, job)

    monkeypatch.setattr(rounds, "run", some)
    rounds_run = comparison.run_rounds({OURS: broken, MLX_LM: broken}, 2)
    assert [set(outcomes) for _, outcomes in rounds_run] == [{OURS}, {OURS}]
    assert sum("mlx_lm, 2 steps ..." in text for text in said) == 1  # it is not tried again
    with pytest.raises(NotMeasured, match=r"mlx_lm ended with exit status 1: .*nowhere"):
        comparison.results.rounds("all_blocks", "targets_per_second", MLX_LM)


def test_programs_alternate(rows, tmp_path, monkeypatch):
    comparison, order = set_up(rows, tmp_path), []

    def remember(name, job):
        order.append((name, job.seed))
        return Outcome([1.0], [5])

    monkeypatch.setattr(rounds, "run", remember)
    job = comparison.job(comparison.material, 1)
    list(comparison.run_rounds({OURS: job, MLX_LM: job}, 3))
    assert order == [(OURS, 4), (MLX_LM, 4), (MLX_LM, 5), (OURS, 5), (OURS, 6), (MLX_LM, 6)]


# What follows from figures


def results_of(**figures):
    results = Results()
    for name, (part, program, values) in figures.items():
        for number, value in enumerate(values, 1):
            results.add(part, name.rstrip("_"), program, number, value)
    return results


@pytest.mark.parametrize(
    ("target", "text"), [(7.0, "7.0000 is not reached"), (9.5, "no lower than that at the begin")]
)
def test_a_loss_that_gives_no_time(target, text):
    with pytest.raises(NotMeasured, match=text):
        seconds_to_loss([(0.0, 9.0), (10.0, 8.0)], target)


def test_shares_of_what_the_operations_promise():
    """Half the blocks: (1 + f) / 2f = 1.5 promised, 1.2 got."""
    results = results_of(
        targets_per_second=("last_quarter", OURS, [120.0]),
        targets_per_second_=("last_quarter", UNCACHED, [100.0]),
        passes=("last_quarter", OURS, [20.0]),
        passes_=("last_quarter", UNCACHED, [30.0]),
    )
    found = summary_of(results)
    assert found["prefix_cache_share_of_flop_ratio"] == pytest.approx(0.8)


def test_the_peer_as_installed_is_carried_over_by_its_rate():
    results = results_of(
        seconds_to_loss=("all_blocks", OURS, [10.0]),
        seconds_to_loss_=("all_blocks", MLX_LM, [20.0]),
        targets_per_second=("all_blocks", MLX_LM, [500.0]),
        targets_per_second_=("as_installed", INSTALLED, [25.0]),
    )
    found = summary_of(results)
    assert found["speedup_vs_mlx_lm"] == 2.0
    assert found["speedup_vs_mlx_lm_as_installed"] == 40.0


def test_every_wanted_key_has_its_ratio():
    assert set(WANTED) <= RATIOS.keys()
    assert set(compare.PARTS) == set(composed(["benchmark=peers"]).benchmark.peers.parts)


# Rows and models


def test_rows_are_those_named_else_samples_else_source_code(rows, tmp_path, monkeypatch):
    assert len(find_corpus(str(rows)).train) == 24
    (tmp_path / "data").mkdir()
    (tmp_path / "data/wikisql").symlink_to(rows)
    monkeypatch.setenv(SAMPLES, str(tmp_path))
    assert find_corpus(None).name == "WikiSQL"
    monkeypatch.setattr(
        "pipeline.benchmark.peers.corpus.source_passages",
        lambda: iter([f"x = {i}" for i in range(40)]),
    )
    monkeypatch.setenv(SAMPLES, str(tmp_path / "data"))
    found = find_corpus(None)
    assert found.name.startswith("standard library of Python 3.")
    assert (len(found.train), len(found.validation)) == (36, 4)
    assert not set(found.train) & set(found.validation)


@pytest.mark.parametrize("empty", ["train", "valid"])
def test_a_file_without_rows_is_refused(rows, tmp_path, empty):
    for name in ("train", "valid"):
        text = (rows / f"{name}.jsonl").read_text()
        (tmp_path / f"{name}.jsonl").write_text("\n" if name == empty else text)
    expected = rf"benchmark\.peers\.rows: {tmp_path}/{empty}.jsonl has no rows\.\n.*another folder"
    with pytest.raises(DataError, match=expected):
        find_corpus(str(tmp_path))


def test_a_batch_that_the_rows_cannot_fill_is_refused(rows, tmp_path):
    set_up(rows, tmp_path / "fits", "benchmark.peers.batch_size=24")
    with pytest.raises(DataError, match=r"batch_size=25: there are only 24 rows .*\n.*more rows"):
        set_up(rows, tmp_path / "large", "benchmark.peers.batch_size=25")


def test_long_rows_fill_a_batch(rows, tmp_path, monkeypatch):
    override = "benchmark.peers.batch_size=12"
    jobs = jobs_of(rows, tmp_path, monkeypatch, "large_vocabulary", override)
    assert jobs["num_long"] == 12


def test_long_rows_are_as_long_as_asked_for(rows, tmp_path):
    comparison = set_up(rows, tmp_path)
    tokenizer = load_tokenizer(comparison.folder / "tokenizer")
    found = joined(comparison.corpus, tokenizer, 100, 3)
    lengths = [len(tokenizer.encode(text)) + 1 for text in found.train]
    assert len(lengths) == 3
    assert all(90 < length <= 100 for length in lengths)


# Keys


def jobs_of(rows, folder, monkeypatch, part, *overrides):
    """List the jobs of a part, without doing them."""
    jobs = {}

    def remember(name, job):
        jobs[name] = job
        if part == "large_vocabulary":
            store = TokenStore(comparison.folder / "long/prepared/train")
            jobs["longest"], jobs["num_long"] = int(store.lengths.max()), len(store)
            jobs["config"] = read_json(comparison.folder / "long/model/config.json")
        raise NotMeasured("only asked")

    monkeypatch.setattr(rounds, "run", remember)
    comparison = set_up(rows, folder, *overrides, part=part)
    compare.PARTS[part].measure(comparison)
    return jobs


@pytest.mark.parametrize(
    ("part", "key", "value", "program", "field", "expected"),
    [
        ("all_blocks", "batch_size", 3, MLX_LM, "batch_size", 3),
        ("all_blocks", "learning_rate", 0.5, OURS, "learning_rate", 0.5),
        ("all_blocks", "rank", 2, MLX_LM, "rank", 2),
        ("as_installed", "installed_steps", 5, INSTALLED, "num_steps", 6),
        ("torch_peft", "torch_steps", 9, FLOAT32, "num_steps", 10),
        ("last_quarter", "epoch_rows", 12, OURS, "num_steps", 9),
        ("last_quarter", "model.num_hidden_layers", 12, OURS, "num_layers", 3),
    ],
)
def test_a_key_changes_what_programs_do(
    rows, tmp_path, monkeypatch, part, key, value, program, field, expected
):
    override = f"benchmark.peers.{key}={value}"
    assert OmegaConf.select(composed(["benchmark=peers"]), f"benchmark.peers.{key}") != value
    jobs = jobs_of(rows, tmp_path, monkeypatch, part, override)
    assert getattr(jobs[program], field) == expected


def test_only_the_cached_side_is_cached(rows, tmp_path, monkeypatch):
    for part in ("last_quarter", "head"):
        jobs = jobs_of(rows, tmp_path / part, monkeypatch, part)
        assert (jobs[OURS].is_cached, jobs[UNCACHED].is_cached) == (True, False)
        assert dataclasses.replace(jobs[OURS], is_cached=False, output="") == dataclasses.replace(
            jobs[UNCACHED], output=""
        )


def test_keys_of_the_large_vocabulary(rows, tmp_path, monkeypatch):
    keys = ["long_row_tokens=40", "large_vocabulary.vocab_size=999"]
    jobs = jobs_of(
        rows, tmp_path, monkeypatch, "large_vocabulary", *(f"benchmark.peers.{key}" for key in keys)
    )
    assert 30 < jobs["longest"] <= 40
    assert jobs["config"]["vocab_size"] == 999
    assert jobs[OURS].grad_checkpoint
    assert jobs[MLX_LM].grad_checkpoint


def test_keys_of_rows(rows, tmp_path):
    comparison = set_up(
        rows, tmp_path, "benchmark.peers.num_rows=9", "benchmark.peers.validation_rows=3"
    )
    assert len(TokenStore(comparison.material.prepared / "train")) == 9
    assert len(TokenStore(comparison.material.prepared / "validation")) == 3


@pytest.mark.parametrize("error", [NotMeasured, ModelError])
def test_parts_are_chosen_and_what_fails_leaves_the_others(rows, tmp_path, monkeypatch, error):
    done = []

    def fails(comparison):
        raise error("it rained")

    def works(comparison):
        done.append(comparison.label)

    monkeypatch.setitem(compare.PARTS, "head", compare.Part(fails, ()))
    monkeypatch.setitem(compare.PARTS, "sweep", compare.Part(works, ()))
    settings = settings_with(rows, "benchmark.peers.parts=[head,sweep]")
    metrics = metrics_of(settings, tmp_path)
    assert done == ["[2/2 sweep]"]
    assert metrics["not_measured"]["head_mode_share_of_flop_ratio"] == "it rained"
    assert metrics["not_measured"]["head"] == "it rained"
    assert "sweep" not in metrics["not_measured"]


def test_what_was_measured_is_kept_when_something_breaks(rows, tmp_path, monkeypatch):
    said, seen = [], []

    def outcome(name, job):
        if (tmp_path / "plots/peers.csv").exists():
            seen.append((tmp_path / "plots/peers.csv").read_text())
        if job.seed == 5:  # round 2
            raise AssertionError("broken")
        return Outcome([1.0, 2.0], [5, 5])

    monkeypatch.setattr(rounds, "run", outcome)
    parts = "benchmark.peers.parts=[as_installed,torch_peft]"
    settings = settings_with(rows, parts, "benchmark.num_runs=2")
    with pytest.raises(AssertionError, match="broken"):
        compare.compare(settings, 3, Paths(tmp_path), said.append)
    row = "as_installed,targets_per_second,mlx_lm_as_installed,1,2.5"
    assert row in seen[0]  # while it goes on
    assert row in (tmp_path / "plots/peers.csv").read_text()
    assert (tmp_path / "plots/peers.png").stat().st_size
    missing = read_json(tmp_path / "metrics/benchmark.json")["not_measured"]
    for part in ("as_installed", "torch_peft"):
        assert missing[part] == f"{part} was not done when this was written"
    assert f"the figures of as_installed are in {tmp_path}: metrics/" in said[-1]


def test_nothing_is_written_when_nothing_was_measured(rows, tmp_path, monkeypatch):
    def broken(comparison):
        raise AssertionError

    said = []
    monkeypatch.setitem(compare.PARTS, "head", compare.Part(broken, ()))
    settings = settings_with(rows, "benchmark.peers.parts=[head]")
    with pytest.raises(AssertionError):
        compare.compare(settings, 3, Paths(tmp_path), said.append)
    assert said[-1] == "[1/1 head] was stopped before anything was measured: nothing is written"
    assert not list(tmp_path.iterdir())


def test_it_begins_with_what_will_be_run_and_how_to_make_it_less(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "measure", lambda comparison: None)
    said = []
    sizes = ["benchmark.num_steps=7", "benchmark.num_runs=5"]
    settings = settings_with(rows, "benchmark.peers.parts=[all_blocks,large_vocabulary]", *sizes)
    compare.compare(settings, 3, Paths(tmp_path), said.append)
    assert "What will be run, 7 steps each" in said[0]
    assert "  all_blocks: ours, mlx_lm; rounds: 5" in said[0]
    assert "  large_vocabulary: ours, mlx_lm; rounds: 2" in said[0]
    assert said[0].endswith(compare.FOR_LESS)
    composed(["benchmark=peers", *compare.FOR_LESS.split()])


def test_who_will_run_is_who_runs(rows, tmp_path, monkeypatch):
    for part in compare.PARTS.keys() - {"sweep", "surroundings"}:
        jobs = jobs_of(rows, tmp_path / part, monkeypatch, part)
        programs = set(compare.PARTS[part].programs)
        assert programs == jobs.keys() - {"longest", "num_long", "config"}


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["benchmark=peers", "benchmark.peers.parts=[dance]"], "must be some of all_blocks"),
        (["benchmark=peers", "benchmark.peers.parts=[]"], "must be some of all_blocks"),
        (["benchmark=peers", "benchmark.prompt_tokens=3"], "choose benchmark=default"),
        (["benchmark=peers", "benchmark.num_steps=1"], "num_steps=1 .*at least 2"),
        (
            ["benchmark=peers", "benchmark.peers.batch_size=9", "benchmark.peers.num_rows=8"],
            "batch_size=9 and benchmark.peers.num_rows=8: there must be rows for a whole batch",
        ),
        (["benchmark.generated_tokens=null"], "generated_tokens.* is not Optional"),
    ],
)
def test_contradictions(overrides, problem):
    with pytest.raises(ConfigError, match=problem):
        composed(overrides)


# Table and picture


def test_the_table_has_every_figure_and_the_picture_is_reproducible(tmp_path):
    results = results_of(
        targets_per_second=("all_blocks", OURS, [3.0, 2.0, 4.0]),
        peak_bytes=("all_blocks", MLX_LM, [7.0]),
    )
    rows = list(results.rows())
    write_table(tmp_path / "peers.csv", rows)
    with (tmp_path / "peers.csv").open() as file:
        found = list(csv.reader(file))
    assert found[0] == list(COLUMNS)
    assert found[1] == ["all_blocks", "targets_per_second", "ours", "1", "3.0"]
    assert len(found) == 5
    for name in ("a.png", "b.png"):
        draw(tmp_path / name, rows)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    draw(tmp_path / "c.png", rows[:1])
    assert (tmp_path / "c.png").read_bytes() != (tmp_path / "a.png").read_bytes()
    draw(tmp_path / "empty.png", [])


def test_alone_our_rate_is_shown_next_to_the_bound():
    metrics = {"train_tokens_per_second": 5.0, "roofline_tokens_per_second": 9.0}
    assert [(row[2], row[4]) for row in comparison_rows(metrics)] == [
        ("ours", 5.0),
        ("machine", 9.0),
    ]

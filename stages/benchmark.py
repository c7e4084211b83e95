"""Speed and memory on this machine: of Tidewheel alone, or compared with other programs."""

import functools
import sys
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.benchmark.bars import Row, write_outputs
from pipeline.benchmark.peers.compare import compare
from pipeline.benchmark.throughput import Workload, benchmark, comparison_rows
from pipeline.config.options import PeersBenchmark
from pipeline.config.stage import stage
from pipeline.config.stage_paths import Paths
from pipeline.device import limit_mlx_memory, warn_of_slow_type
from pipeline.machine import available_memory_bytes
from pipeline.model.limits import check_positions


@stage(
    "seed",
    "data.arrangement",
    "model.dtype",
    "train.batch_size",
    "train.batch_tokens",
    "train.grad_accumulation_steps",
    "train.grad_checkpoint",
    "benchmark",
    alone=("benchmark=peers",),
)
def main(config: DictConfig, paths: Paths) -> None:
    """Benchmark: writes metrics/benchmark.json, plots/peers.csv and plots/peers.png.

    The figures are of this machine; `dvc repro -f -s benchmark` measures them again. With
    benchmark=peers other programs train too, on models and rows that the stage makes.
    """
    if "peers" not in config.benchmark:
        write_outputs(paths, *alone(config, paths))
    else:
        with_peers(config, paths)


def alone(config: DictConfig, paths: Paths) -> tuple[dict[str, Any], list[Row]]:
    """Time the tuned model, and compare it with the upper bound of this machine."""
    warn_of_slow_type(config.model.dtype)
    limit_mlx_memory(available_memory_bytes())
    base = paths.read("models/base")
    check_positions(base, config.benchmark)
    settings = {**config.train, **config.benchmark}
    work = Workload(arrangement=config.data.arrangement, seed=config.seed, **settings)
    metrics = benchmark(
        base=base,
        trained=paths.read("models/trained"),
        prepared=paths.read("data/prepared"),
        dtype=config.model.dtype,
        work=work,
    )
    return {**metrics, **paths.meter.facts()}, comparison_rows(metrics)


def with_peers(config: DictConfig, paths: Paths) -> None:
    """Train other programs too; figures are written after each round."""
    show = functools.partial(print, file=sys.stderr, flush=True)
    compare(peers_of(config.benchmark), config.seed, paths, show)


def peers_of(benchmark: DictConfig) -> PeersBenchmark:
    """Return the settings of the comparison in the types of the schema."""
    settings = OmegaConf.merge(OmegaConf.structured(PeersBenchmark), benchmark)
    found = OmegaConf.to_object(settings)
    assert isinstance(found, PeersBenchmark)
    return found


if __name__ == "__main__":
    main()

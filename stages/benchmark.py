"""Speed and memory on this machine: of Tidewheel alone, or compared with other programs."""

import sys
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.benchmark.bars import Row, write_outputs
from pipeline.benchmark.peers.compare import compare
from pipeline.benchmark.throughput import Workload, benchmark, comparison_rows
from pipeline.config.schema import Peers, Scratch
from pipeline.config.stage import Paths, stage


@stage(
    "seed",
    "data.arrangement",
    "model.dtype",
    "train.batch_size",
    "train.batch_tokens",
    "benchmark",
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
    settings = {**config.train, **config.benchmark}
    work = Workload(arrangement=config.data.arrangement, seed=config.seed, **settings)
    metrics = benchmark(
        base=paths.read("models/base"),
        trained=paths.read("models/trained"),
        prepared=paths.read("data/prepared"),
        dtype=config.model.dtype,
        work=work,
    )
    return metrics, comparison_rows(metrics)


def with_peers(config: DictConfig, paths: Paths) -> None:
    """Train other programs too; figures are written after each round."""
    compare(
        peers_of(config.benchmark.peers),
        config.benchmark.num_steps,
        config.benchmark.num_runs,
        config.seed,
        paths,
        lambda text: print(text, file=sys.stderr, flush=True),
    )


def peers_of(peers: DictConfig) -> Peers:
    """Return the settings of the comparison in the types of the schema."""
    values: Any = OmegaConf.to_container(peers)
    shapes = {name: Scratch(**values[name]) for name in ("model", "large_vocabulary")}
    return Peers(**{**values, **shapes})


if __name__ == "__main__":
    main()

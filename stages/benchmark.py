"""Speed and memory on this machine."""

from omegaconf import DictConfig

from pipeline.benchmark.throughput import Workload, benchmark
from pipeline.files import write_json
from pipeline.stage import Paths, stage


@stage(
    "seed",
    "data.arrangement",
    "model.dtype",
    "train.batch_size",
    "train.batch_tokens",
    "benchmark",
)
def main(config: DictConfig, paths: Paths) -> None:
    """Benchmark: writes metrics/benchmark.json.

    The figures are of this machine; `dvc repro -f -s benchmark` takes them again.
    """
    work = Workload(
        arrangement=config.data.arrangement,
        seed=config.seed,
        **config.train,
        **config.benchmark,
    )
    metrics = benchmark(
        base=paths.read("models/base"),
        trained=paths.read("models/trained"),
        prepared=paths.read("data/prepared"),
        dtype=config.model.dtype,
        work=work,
    )
    write_json(paths.write("metrics/benchmark.json"), metrics)


if __name__ == "__main__":
    main()

"""The tuned model compared with its base, on held-out data."""

from omegaconf import DictConfig

from pipeline.config.graph import code_hashes
from pipeline.config.stage import stage
from pipeline.config.stage_paths import Paths
from pipeline.console import print_line
from pipeline.device import (
    limit_mlx_memory,
    mlx_memory,
    numerics_fingerprint,
    warn_of_slow_type,
)
from pipeline.evaluate.compare import EvaluationSettings, evaluate
from pipeline.evaluate.kept import KeptResults
from pipeline.evaluate.picture import draw
from pipeline.evaluate.samples import shown_samples
from pipeline.evaluate.summary import read_results, summary
from pipeline.files import write_json
from pipeline.machine import available_memory_bytes
from pipeline.model.limits import check_positions
from pipeline.train.supervise.run_folder import RESULTS, RunFolder


@stage("data.arrangement", "model.dtype", "validate")
def main(config: DictConfig, paths: Paths) -> None:
    """Validate: writes models/validation (a row per item), metrics/validate.json and a picture.

    The few results by which runs are compared are in metrics/summary.json. Time and memory that it
    took on this machine are in metrics/validate_machine.json. What was measured before it was
    stopped is not measured again.
    """
    warn_of_slow_type(config.model.dtype)
    base, trained = paths.read("models/base"), paths.read("models/trained")
    prepared = paths.read("data/prepared")
    curves = paths.read("plots/train.csv"), paths.read("plots/validation.csv")
    training = read_results(paths.read("metrics/train.json"))
    check_positions(base, config.validate)
    limit_mlx_memory(available_memory_bytes())
    with RunFolder.of_stage("validate", config, paths) as run:
        identity = {"code": code_hashes("validate"), "numerics": numerics_fingerprint()}
        with paths.folder("models/validation") as folder:
            metrics = evaluate(
                base=base,
                trained=trained,
                prepared=prepared,
                folder=folder,
                settings=EvaluationSettings(
                    config.model.dtype, config.data.arrangement, **config.validate
                ),
                kept=KeptResults(run.path / RESULTS, identity),
            )
            print_line(shown_samples(folder))
        write_json(paths.write("metrics/validate.json"), metrics)
        write_json(paths.write("metrics/summary.json"), summary(training, metrics))
        used = {**paths.meter.facts(), "peak_memory_bytes": mlx_memory().peak_bytes}
        write_json(paths.write("metrics/validate_machine.json"), used)
        with paths.file("plots/overview.png") as picture:
            draw(*curves, metrics, picture)
        run.clear()


if __name__ == "__main__":
    main()

"""The tuned model compared with its base, on held-out data."""

from omegaconf import DictConfig

from pipeline.config.stage import Paths, stage
from pipeline.evaluate.compare import EvaluationSettings, evaluate
from pipeline.evaluate.picture import draw
from pipeline.files import new_folder, write_json
from pipeline.model.folder import check_positions


@stage("data.arrangement", "model.dtype", "validate")
def main(config: DictConfig, paths: Paths) -> None:
    """Validate: writes models/validation (a row per item), metrics/validate.json and a picture."""
    base = paths.read("models/base")
    check_positions(base, config.validate)
    with new_folder(paths.write("models/validation")) as folder:
        metrics = evaluate(
            base=base,
            trained=paths.read("models/trained"),
            prepared=paths.read("data/prepared"),
            folder=folder,
            settings=EvaluationSettings(
                config.model.dtype, config.data.arrangement, **config.validate
            ),
        )
    write_json(paths.write("metrics/validate.json"), metrics)
    curves = paths.read("plots/train.csv"), paths.read("plots/validation.csv")
    draw(*curves, metrics, paths.write("plots/overview.png"))


if __name__ == "__main__":
    main()

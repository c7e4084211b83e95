"""The trained model in the formats that other programs read."""

from omegaconf import DictConfig

from pipeline.config.stage import stage
from pipeline.config.stage_paths import Paths
from pipeline.device import limit_mlx_memory, mlx_memory
from pipeline.files import write_json
from pipeline.formats.export import export
from pipeline.machine import available_memory_bytes


@stage("export")
def main(config: DictConfig, paths: Paths) -> None:
    """Export: writes models/export and metrics/export.json.

    Each format is read back by another program and must reproduce the trained model's logits.
    Time and memory that it took on this machine are in metrics/export_machine.json.
    """
    limit_mlx_memory(available_memory_bytes())
    base, prepared = paths.read("models/base"), paths.read("data/prepared")
    trained = paths.read("models/trained")
    best = config.export.checkpoint == "best"
    with paths.folder("models/export") as folder:
        metrics = export(
            base=base,
            trained=trained / "best" if best else trained,
            prepared=prepared,
            formats=list(config.export.formats),
            target=lambda name: folder / name,
        )
    report = {"export_checkpoint": config.export.checkpoint, **metrics}
    write_json(paths.write("metrics/export.json"), report)
    used = {**paths.meter.facts(), "peak_memory_bytes": mlx_memory().peak_bytes}
    write_json(paths.write("metrics/export_machine.json"), used)


if __name__ == "__main__":
    main()

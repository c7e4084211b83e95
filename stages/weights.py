"""The base model: an existing one, checked and described, or a new one, pretrained."""

import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from pipeline.config.graph import code_hashes
from pipeline.config.stage import stage
from pipeline.config.stage_paths import Paths
from pipeline.console import print_line
from pipeline.device import mlx_memory
from pipeline.errors import ModelError
from pipeline.external.hub import locate
from pipeline.external.inputs import check_unchanged
from pipeline.external.paths import SCRATCH
from pipeline.external.tokenizer_files import tokenizer_hash, vocabulary_hash
from pipeline.files import recall_notice, write_json
from pipeline.model.architectures import unproven_notice
from pipeline.model.network.base import size_metrics, write_manifest
from pipeline.model.network.upstream import load_tokenizer
from pipeline.model.own_code import code_notice
from pipeline.model.quantize import write_quantized
from pipeline.model.stored import fused_notice
from pipeline.train.checkpoints.series import split_metrics
from pipeline.train.protocol import RunSpec, plain
from pipeline.train.supervise.run_folder import RunFolder
from pipeline.train.supervise.settings import RESTART, SupervisorSettings
from pipeline.train.supervise.supervisor import Supervisor


@stage("seed", "data.arrangement", "model", "inputs.model")
def main(config: DictConfig, paths: Paths) -> None:
    """Provide the base model: writes models/base and metrics/weights.json.

    Time and memory that it took on this machine are in metrics/weights_machine.json.
    """
    check_unchanged(config, "model")
    tokenizer = paths.read("data/prepared") / "tokenizer"
    metrics: dict[str, Any] = {}
    model = config.model
    with paths.folder("models/base") as base:
        shutil.copytree(tokenizer, base, dirs_exist_ok=True)
        if model.source == SCRATCH:
            with RunFolder.of_stage("weights", config, paths) as run:
                metrics = pretrain(config, paths, base, run)
                run.clear()
            folder = base
        else:
            folder = locate(model.source, model.revision, model.allow_network, weights=True)
            require_same_tokenizer(tokenizer, folder, model.source)
        named, notices = folder, [code_notice(folder)]
        if model.quantize_bits is not None:
            write_quantized(folder, base, model.quantize_bits, model.quantize_group_size)
            folder = base
        manifest = write_manifest(base, folder, model.source, tokenizer_hash(tokenizer), named)
        load_tokenizer(base, named)  # what cannot be loaded later is refused here
        notices += unproven_notice(base), fused_notice(base)
    results, machine = split_metrics({**metrics, **size_metrics(manifest)})
    write_json(paths.write("metrics/weights.json"), results)
    used = {"peak_memory_bytes": mlx_memory().peak_bytes, **machine, **paths.meter.facts()}
    write_json(paths.write("metrics/weights_machine.json"), used)
    for text in filter(None, (*notices, recall_notice())):
        print_line(f"weights: {text}")


def require_same_tokenizer(prepared: Path, source: Path, name: str) -> None:
    """Refuse a model with another tokenizer, but for its template, than that of the data.

    Raises:
        ModelError: when they differ.
    """
    if vocabulary_hash(prepared) != vocabulary_hash(source):
        raise ModelError(
            f"model.source={name}: its tokenizer is not the one that data/prepared was made with.\n"
            "Run `dvc repro`, which prepares the data again."
        )


def pretrain(config: DictConfig, paths: Paths, base: Path, run: RunFolder) -> dict[str, Any]:
    """Make a scratch model in `base`; return its metrics."""
    spec = RunSpec(
        title="pretrain",
        kind="pretrain",
        parameters=plain(config),
        base=str(base.resolve()),
        prepared=str(paths.read("data/prepared").resolve()),
        run_folder=str(run.path.resolve()),
        output=str(base.resolve()),
        code=code_hashes("weights"),
    )
    num_steps = config.model.pretrain.num_steps
    settings = SupervisorSettings(resume=RESTART)
    return Supervisor(spec, num_steps, settings, run, paths.meter).train()


if __name__ == "__main__":
    main()

"""What dvc.yaml has of each stage: what it reads and what it writes."""

import functools
from typing import Any

import yaml

from pipeline.files import ROOT, sha256_path


def dvc_stages() -> dict[str, Any]:
    """Read the stages of dvc.yaml."""
    return yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def output_names(description: dict[str, Any]) -> list[str]:
    """List the outputs of a stage of dvc.yaml, metrics and plots included."""
    entries = [
        entry for kind in ("outs", "metrics", "plots") for entry in description.get(kind, [])
    ]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def maker_of(name: str) -> str:
    """Find the stage that writes a file or folder."""
    return makers().get(output_of(name), "")


def output_of(name: str) -> str:
    """Find the output that a file or folder is, or is a part of; empty where it is none."""
    return next((out for out in makers() if name == out or name.startswith(f"{out}/")), "")


@functools.cache
def makers() -> dict[str, str]:
    """Map each output to the stage that writes it; read once, as this is slower than hashing."""
    return {
        out: stage_name
        for stage_name, description in dvc_stages().items()
        for out in output_names(description)
    }


def code_hashes(stage_name: str) -> dict[str, str]:
    """Hash the code that computes in a stage, by the modules and folders that dvc.yaml names."""
    deps = dvc_stages()[stage_name]["deps"]
    return {name: sha256_path(ROOT / name) for name in deps if not maker_of(name)}

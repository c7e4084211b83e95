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


def folders_of(stage_name: str) -> list[str]:
    """List the folders that a stage writes for other stages and for users."""
    names = output_names(dvc_stages()[stage_name])
    return [name for name in names if name.startswith(("data/", "models/"))]


def sections_of(stage_name: str) -> tuple[str, ...]:
    """List the sections and keys of params.yaml that a stage reads."""
    return tuple(dvc_stages()[stage_name]["params"])


def stages_before(stage_name: str) -> list[str]:
    """List the stages whose outputs a stage needs, in the order of dvc.yaml.

    Args:
        stage_name: by its name in dvc.yaml; a stage that is not there needs none.
    """
    stages, found = dvc_stages(), set[str]()
    todo = list(stages.get(stage_name, {}).get("deps", []))
    while todo:
        maker = maker_of(todo.pop())
        if maker and maker not in found:
            found.add(maker)
            todo += stages[maker]["deps"]
    return [name for name in stages if name in found]

"""The import graph of the project, read from its source without running it."""

import ast
import re
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
EXEMPT = (
    "pipeline/errors.py",
    "pipeline/files.py",
    "pipeline/console.py",
    "pipeline/machine.py",
    "pipeline/summary.py",
    "pipeline/external/",
    "pipeline/config/",
    "pipeline/data/provenance/explain.py",
    "pipeline/train/supervise/",
    "pipeline/train/plan/",
)
"""Modules that cannot change a result: they store, predict or describe it, or they only provide
values that `params:` tracks."""
MODULE_NAME = re.compile(r"pipeline(\.\w+)+")


def stages() -> dict:
    """Read the stages of dvc.yaml."""
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def module_file(name: str) -> str | None:
    """Find the file of a dotted module name, relative to the repository."""
    path = ROOT / name.replace(".", "/")
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists():
            return candidate.relative_to(ROOT).as_posix()
    return None


@cache
def imports(file: str) -> frozenset[str]:
    """List the project's files that a file imports, inside functions too, or starts by name."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Constant) and MODULE_NAME.fullmatch(str(node.value)):
            found.add(node.value)  # a module that is started as a process
    ours = {name for name in found if name.split(".")[0] in {"pipeline", "stages"}}
    return frozenset(path for name in ours if (path := module_file(name)))


def reached(file: str) -> set[str]:
    """List all files of the project that a file reaches, with itself and without empty ones."""
    seen, todo = set(), [file]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo += imports(current)
    return {path for path in seen if (ROOT / path).stat().st_size}


def computing(file: str) -> set[str]:
    """List the files that a file reaches and that can change what it computes."""
    return {path for path in reached(file) if not path.startswith(EXEMPT)}

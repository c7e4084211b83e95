"""Write the `deps:` of dvc.yaml from what the code of each stage reaches.

`python -m tools.dvc_deps` rewrites them. With `--check` it only compares, and exits with 1 where
they differ. Where a stage reaches all files of a folder, the folder is written instead.
"""

import argparse
import sys
from pathlib import Path

from tools.import_graph import ROOT, computing, stages

FILE = ROOT / "dvc.yaml"
CODE = ("pipeline/", "stages/")
ENTRY = "      - "
BY_HAND = "params"
"""The stage whose deps are written by hand."""


def folded(files: set[str]) -> list[str]:
    """Replace files by a folder where that folder holds nothing else.

    Args:
        files: paths relative to the repository.
    """
    folders = {folder for file in files for folder in Path(file).parents if len(folder.parts) > 1}
    whole = [folder for folder in sorted(folders) if code_in(folder) <= files]
    top = [folder for folder in whole if not set(folder.parents) & set(whole)]
    rest = {file for file in files if not set(Path(file).parents) & set(top)}
    return sorted(rest | {folder.as_posix() for folder in top})


def code_in(folder: Path) -> set[str]:
    """List the modules in a folder that are not empty."""
    found = (ROOT / folder).rglob("*.py")
    return {path.relative_to(ROOT).as_posix() for path in found if path.stat().st_size}


def deps_of(stage_name: str) -> list[str]:
    """List what a stage depends on: the outputs of other stages in dvc.yaml, and its code."""
    written = [dep for dep in stages()[stage_name]["deps"] if not dep.startswith(CODE)]
    return sorted(written + folded(computing(f"stages/{stage_name}.py")))


def rewritten(text: str) -> str:
    """Replace the deps in the text of dvc.yaml, and nothing else."""
    lines: list[str] = []
    stage_name, is_inside = "", False
    for line in text.splitlines():
        if is_inside and stage_name != BY_HAND and line.startswith(ENTRY):
            continue
        is_inside = line.strip() == "deps:"
        if line.startswith("  ") and line[2] != " " and line.endswith(":"):
            stage_name = line.strip(" :")
        lines.append(line)
        if is_inside and stage_name != BY_HAND:
            lines += [ENTRY + dep for dep in deps_of(stage_name)]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Rewrite dvc.yaml, or compare it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    is_check = parser.parse_args().check
    old = FILE.read_text(encoding="utf-8")
    new = rewritten(old)
    if new == old:
        return 0
    if is_check:
        print("dvc.yaml: deps differ from what the code reaches; run `python -m tools.dvc_deps`")
        return 1
    FILE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Count lines, modules and functions of the project: `python -m tools.measure [FOLDER]`.

FOLDER is a checkout of this project, so that two commits can be compared. Tests are not counted
among modules, lines, functions and signatures. Empty lines and comments are counted as lines.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

CODE = ("pipeline", "stages", "hydra_plugins", "tools")
FILES = ("dvc.yaml", "dvc.lock", "params.yaml")
LONGEST_FUNCTION, MOST_PARAMETERS = 40, 6
Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules(folder: Path) -> list[Path]:
    """List the modules below a folder, without empty ones."""
    return sorted(path for path in folder.rglob("*.py") if path.stat().st_size)


def num_lines(path: Path) -> int:
    """Count the lines of a file; 0 where there is none."""
    return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0


def functions(path: Path) -> Iterator[Function]:
    """Yield every function and method of a module, nested ones too."""
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return (node for node in tree if isinstance(node, Function))


def num_parameters(function: Function) -> int:
    """Count the parameters that a caller passes, without `self` and `cls`."""
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    others = [item for item in (given.vararg, given.kwarg) if item]
    return len(others) + sum(item.arg not in ("self", "cls") for item in named)


def untested(root: Path) -> list[str]:
    """List the modules of pipeline/ that have functions and no test module.

    The test module of `pipeline/a/b.py` is `tests/a/test_b.py`, or `tests/test_b.py` in checkouts
    whose tests are all in one folder.
    """
    found = []
    for path in modules(root / "pipeline"):
        inner, name = path.relative_to(root / "pipeline").parent, f"test_{path.name}"
        places = {root / "tests" / inner / name, root / "tests" / name}
        if any(functions(path)) and not any(place.exists() for place in places):
            found.append(path.relative_to(root).as_posix())
    return found


def table(root: Path) -> Iterator[tuple[str, int]]:
    """Yield each name and count."""
    for top in CODE:
        inner = sorted(path for path in (root / top).glob("*") if path.is_dir())
        for package in [root / top, *(inner if top == "pipeline" else [])]:
            found = modules(package)
            if found:
                name = package.relative_to(root)
                yield f"{name}/: modules", len(found)
                yield f"{name}/: lines", sum(map(num_lines, found))
    entries = {path.name for path in (root / "pipeline").iterdir()} - {"__init__.py", "__pycache__"}
    yield "entries at the top of pipeline/", len(entries)
    yield (
        "modules next to the folders of train/",
        len([path for path in (root / "pipeline/train").glob("*.py") if path.stat().st_size]),
    )
    for file in FILES:
        yield f"lines of {file}", num_lines(root / file)
    yield "modules with functions and without a test module", len(untested(root))
    code = [
        function for top in CODE for path in modules(root / top) for function in functions(path)
    ]
    lengths = [(function.end_lineno or 0) - function.lineno + 1 for function in code]
    yield f"functions over {LONGEST_FUNCTION} lines", sum(n > LONGEST_FUNCTION for n in lengths)
    yield (
        f"signatures over {MOST_PARAMETERS} parameters",
        sum(num_parameters(function) > MOST_PARAMETERS for function in code),
    )


if __name__ == "__main__":
    for name, count in table(Path(sys.argv[1] if len(sys.argv) > 1 else ".")):
        print(f"{count:7,}  {name}")

"""A model folder as it lies on disk: which files hold its weights, and what they claim to hold.

Nothing is loaded here. Only safetensors inside the named folder are accepted: no pickle, no path
that leads out of the folder, no header that the safetensors library refuses.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline.errors import ModelError, report_problems
from pipeline.external.json_files import Remedy, checked, read_foreign
from pipeline.external.paths import INDEX, place_problem
from pipeline.external.shapes import TEXT, Every
from pipeline.model.source.facts import SAVED, SHAPE
from pipeline.model.source.spelling import respelled

SINGLE = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.npz", "*.h5", "*.gguf")
FOREIGN_MAGIC = {
    b"PK\x03\x04": "a zip archive, as PyTorch's pickles are",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"GGUF": "a GGUF file",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
}
MAX_HEADER_BYTES = 100_000_000
"""What the safetensors library accepts."""
CONVERT = (
    "Of a folder only safetensors are read; of a GGUF file, give its own path. Save the model with "
    "transformers' `save_pretrained(..., safe_serialization=True)` and name that folder."
)
CONFIG = Remedy(ModelError, "Give the folder that holds config.json and *.safetensors.")
REFETCH = Remedy(ModelError, "Fetch it again; its size may tell where the transfer broke off.")
INDEX_REMEDY = Remedy(
    ModelError, "Fetch the index again, or remove it where the folder holds one *.safetensors."
)
FOREIGN = Remedy(ModelError, "Fetch the model again, or save it again with transformers.")


@dataclass(frozen=True)
class Tensor:
    """What a file's header says of one tensor; `dtype` is safetensors' name (`BF16`, `F32`, …)."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class WeightFile:
    """One safetensors file and its table of tensors."""

    path: Path
    tensors: tuple[Tensor, ...]


def read_config(folder: Path) -> dict[str, Any]:
    """Read `config.json` in the words of mlx-lm, without the code of its own that it may name.

    Raises:
        ModelError: when it is no JSON object, has facts that cannot be, names no architecture, or
            asks to run its own code.
    """
    path = folder / "config.json"
    config = checked(path, read_foreign(path, {}, CONFIG), SHAPE, SAVED)
    if config.get("model_type") is None:
        raise ModelError(
            f"{path}: has no `model_type`, so its architecture is unknown.\n"
            "Use the config.json that the model was saved with."
        )
    if "model_file" in config:
        raise ModelError(
            f"{path}: asks to run {config['model_file']}, code of its own; that is never done.\n"
            "Use a model whose architecture mlx-lm has."
        )
    return respelled({name: value for name, value in config.items() if name != "auto_map"})


def read_weight_files(folder: Path) -> list[WeightFile]:
    """List the safetensors files of a folder, headers read and checked.

    Raises:
        ModelError: for a missing, foreign, damaged or outlying file, and for a tensor that the
            index and the files do not agree on.
    """
    paths = listed_files(folder)
    problems = [problem for path in paths if (problem := file_problem(path, folder))]
    report_problems(ModelError, f"{folder}: these files cannot be used:", problems, CONVERT)
    files = [read_header(path) for path in paths]
    check_index(folder, files)
    return files


def listed_files(folder: Path) -> list[Path]:
    """Find the weight files: those of the index, else the single file, else every one."""
    if (folder / INDEX).is_file():
        return [folder / name for name in sorted(set(read_weight_map(folder).values()))]
    single = folder / SINGLE
    found = [single] if single.exists() else sorted(folder.glob("*.safetensors"))
    if found:
        return found
    others = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    held = f"it holds {', '.join(others)}" if others else "it holds no weights at all"
    raise ModelError(f"{folder}: there is no *.safetensors; {held}.\n{CONVERT}")


def read_weight_map(folder: Path) -> dict[str, str]:
    """Read which file each tensor is in.

    Raises:
        ModelError: when the index is damaged or names a file outside the folder.
    """
    path = folder / INDEX
    entries = read_foreign(path, {"weight_map": Every(TEXT)}, INDEX_REMEDY)["weight_map"]
    problems = [
        f"{name}: {file}"
        for name, file in entries.items()
        if Path(file).name != file or not file.endswith(".safetensors")
    ]
    headline = f"{path}: names files that are not *.safetensors in this very folder:"
    report_problems(ModelError, headline, problems, "Use an index that comes with its files.")
    return entries


def file_problem(path: Path, folder: Path) -> str | None:
    """Describe what is wrong with a weight file, judged by its place and its first bytes."""
    problem = place_problem(path, folder)
    if problem is not None:
        return problem
    with path.open("rb") as file:
        start = file.read(32)
    if opens_header(start):
        return None
    for magic, kind in FOREIGN_MAGIC.items():
        if start.startswith(magic):
            return f"{path.name}: is {kind}"
    return None


def opens_header(start: bytes) -> bool:
    """Whether a file begins as safetensors: the length of a JSON object, and the object.

    Some lengths have the first bytes of a pickle: 640 is 80 02.
    """
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER_BYTES


def read_header(path: Path, remedy: Remedy = REFETCH) -> WeightFile:
    """Read the table of tensors, by the safetensors library, which checks it for overlaps.

    Args:
        path: of the file.
        remedy: what the user is to do where it is damaged.

    Raises:
        PipelineError: of the kind of the remedy, when the file is damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in sorted(file.keys())}
            tensors = tuple(
                Tensor(name, part.get_dtype(), tuple(part.get_shape()))
                for name, part in slices.items()
            )
    except (SafetensorError, OSError, ValueError) as error:
        raise remedy.error(
            f"{path}: is no readable safetensors file ({error}).\n{remedy.text}"
        ) from error
    return WeightFile(path, tensors)


def check_index(folder: Path, files: list[WeightFile]) -> None:
    """Compare the index with what the files hold.

    Raises:
        ModelError: with every tensor that is missing, or stands in two files.
    """
    seen: dict[str, str] = {}
    problems = []
    for file in files:
        for tensor in file.tensors:
            if tensor.name in seen:
                problems.append(f"{tensor.name}: in {seen[tensor.name]} and in {file.path.name}")
            seen[tensor.name] = file.path.name
    if (folder / INDEX).is_file():
        problems += [
            f"{name}: the index says {file}, which does not hold it"
            for name, file in read_weight_map(folder).items()
            if seen.get(name) != file
        ]
    headline = f"{folder}: its files do not agree on where tensors are:"
    remedy = "Fetch the model again; files of another version may be among them."
    report_problems(ModelError, headline, problems, remedy)

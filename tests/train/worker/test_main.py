"""How a worker starts: quickly, and without taking a core from who trains."""

import re
import subprocess
import sys

import pytest

from pipeline.train.worker.main import call_quietly
from tests.support.small import ROOT

LOOK = """
import os, sys, threading
before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
import pipeline.device
from pipeline.train.worker import main
main.call_quietly(main.import_serve)
from pipeline.model.network import upstream
absent = {"transformers", "huggingface_hub"}.isdisjoint(sys.modules)
print(absent, upstream.load_any_model.__module__)
print(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) - before)
from transformers import AutoTokenizer
from huggingface_hub import snapshot_download
print(AutoTokenizer.__module__, snapshot_download.__module__)
"""


def test_mlx_lm_is_imported_without_libraries_which_stay_there_for_others():
    command = [sys.executable, "-c", LOOK]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    absent, priority, module = done.stdout.split("\n")[:3]
    assert absent == "True mlx_lm.utils"
    assert priority == "0"
    assert re.match(r"transformers\..* huggingface_hub\.", module)


def test_what_an_import_raises_is_raised():
    def fail():
        raise ModuleNotFoundError("No module named 'nowhere'")

    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        call_quietly(fail)

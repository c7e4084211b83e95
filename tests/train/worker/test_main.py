"""How a worker starts: quickly, and without taking a core from who trains."""

import re
import subprocess
import sys

from tests.support.small import ROOT

LOOK = """
import sys
import pipeline.device
from pipeline.train.worker import main
main.import_quietly("pipeline.train.finetune")
from pipeline.model import upstream
absent = {"transformers", "huggingface_hub"}.isdisjoint(sys.modules)
print(absent, upstream.load_model.__module__)
import os, threading
print(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
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


def test_a_module_that_cannot_be_imported_says_why():
    code = "from pipeline.train.worker import main; main.import_quietly('pipeline.train.nowhere')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "No module named 'pipeline.train.nowhere'" in done.stderr

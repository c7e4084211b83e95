"""How a worker starts: quickly, and without taking a core from who trains."""

import subprocess
import sys

from tests.small import ROOT

LOOK = """
import sys
import pipeline.device
from pipeline.train import begin
begin.import_quietly("pipeline.train.tune")
from pipeline.model import upstream
print("transformers" in sys.modules, upstream.load_model.__module__)
import os, threading
print(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
from transformers import AutoTokenizer
print(AutoTokenizer.__module__)
"""


def test_mlx_lm_is_imported_without_transformers_which_stays_there_for_others():
    command = [sys.executable, "-c", LOOK]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    absent, priority, module = done.stdout.split("\n")[:3]
    assert absent == "False mlx_lm.utils"
    assert priority == "0"
    assert module.startswith("transformers.")


def test_a_module_that_cannot_be_imported_says_why():
    code = "from pipeline.train import begin; begin.import_quietly('pipeline.train.nowhere')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "No module named 'pipeline.train.nowhere'" in done.stderr

"""The Hugging Face libraries stay off the network and quiet, unless the user asks them not to."""

import pytest

from tests.test_device import run


def test_importing_the_device_goes_offline_unless_told_otherwise():
    code = (
        "import os; from pipeline import device; from pipeline.external import offline\n"
        "print(*(os.environ[name] for name in offline.OFFLINE))\n"
        "import huggingface_hub.constants as hub; print(hub.HF_HUB_OFFLINE)"
    )
    assert run(code).split() == ["1", "1", "1", "True"]
    assert run(code, HF_HUB_OFFLINE="0").split() == ["0", "1", "1", "False"]


WITHOUT_TORCH = """
import importlib, sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "torch" else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
sys.stderr = sys.stdout
importlib.import_module("stages.{}")
import huggingface_hub.constants as hub
import transformers
print("imported", hub.HF_HUB_OFFLINE, transformers.is_torch_available())
"""


@pytest.mark.parametrize("stage", ["prepare", "weights", "benchmark"])
def test_a_stage_is_offline_and_says_nothing_of_what_it_does_not_need(stage):
    assert run(WITHOUT_TORCH.format(stage)) == "imported True False\n"

"""The preset that fits a machine is named with how to use it; nothing chooses one."""

import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from pipeline.config import hardware
from pipeline.config.groups import options
from pipeline.config.hardware import Machine, fitting_preset, preset_text
from stages.params import composed
from tests.support.small import ROOT

GIB = 1 << 30


def mac(gib):
    return Machine("mac", "a Mac", gib * GIB, 0.8)


@pytest.mark.parametrize("name", [name for name in options("hardware") if name != "cpu"])
def test_each_preset_fits_the_machine_that_it_is_made_for(name):
    kind, size = name.removesuffix("gb").split("_")
    assert (
        fitting_preset(Machine(kind, "", int(size) * GIB, 0.8 if kind == "mac" else 0.95)) == name
    )


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (mac(36), "mac_32gb"),
        (mac(512), "mac_192gb"),
        (mac(4), None),
        (Machine("cpu", "", 16 * GIB, 0.8), "cpu"),
        (Machine("cpu", "", 500 * GIB, 0.8), "cpu"),
        (Machine("cpu", "", 8 * GIB, 0.8), None),
        (Machine("cuda", "", 143_771 << 20, 0.95), "cuda_24gb"),
        (Machine("cuda", "", 16 * GIB, 0.95), None),
    ],
)
def test_the_largest_one_that_fits_is_named(machine, name):
    assert fitting_preset(machine) == name


def test_what_is_named_comes_with_its_values_and_with_commands_that_compose():
    text = preset_text(mac(16))
    assert text.startswith(
        "This machine computes on a Mac with 17.2 GB. hardware=mac_16gb fits it. "
        "A Mac with 16 GB: models of 8B in 4 bits, as Llama-3.1-8B.\n"
    )
    assert "  python -m stages.train hardware=mac_16gb --plan\n" in text
    assert text.endswith("  dvc exp run -S hardware=mac_16gb")
    values = [line.strip() for line in text.splitlines() if line.startswith("  ")]
    values = [value for value in values if " " not in value]
    config = composed(["hardware=mac_16gb"])
    assert len(values) > 5
    for override in OverridesParser.create().parse_overrides(values):
        assert OmegaConf.select(config, override.key_or_group) == override.value()


def test_no_preset_is_named_where_none_fits():
    text = preset_text(mac(4))
    assert (
        "No preset of conf/hardware fits it: the smallest, hardware=mac_8gb, lets a train" in text
    )
    assert "hold 6 GB.\n`python -m stages.train --plan` shows" in text


@pytest.mark.parametrize(
    ("answer", "size"),
    [("24564\n", 24564 << 20), ("81559\n143771\n", 143_771 << 20), ("[N/A]\n", None)],
)
def test_a_card_is_asked_for_its_memory(monkeypatch, answer, size):
    done = subprocess.CompletedProcess([], 0, answer, "")
    monkeypatch.setattr(hardware.shutil, "which", lambda name: name)
    monkeypatch.setattr(hardware.subprocess, "run", lambda *_, **__: done)
    assert hardware.card_memory_bytes() == size
    if size and sys.platform != "darwin":
        assert hardware.this_machine() == Machine("cuda", "an NVIDIA card", size, 0.95)


def test_it_is_printed_and_changes_nothing():
    before = (ROOT / "params.yaml").read_bytes()
    command = [sys.executable, "-m", "stages.params", "--hardware"]
    text = subprocess.check_output(command, cwd=ROOT, text=True)
    assert text == preset_text(hardware.this_machine()) + "\n"
    assert (ROOT / "params.yaml").read_bytes() == before

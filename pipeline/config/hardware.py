"""Which preset of conf/hardware fits this machine. It is named here, and never chosen.

One commit must compose to one params.yaml on every machine.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass

from pipeline.config.groups import CONF, contents, options
from pipeline.config.keys import flat
from pipeline.machine import available_memory_bytes

GROUP = "hardware"
GB, MIB = 10**9, 1 << 20
NVIDIA = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Machine:
    """A kind of machine, as the names of presets begin with it.

    Attributes:
        kind: `mac`, `cuda` or `cpu`.
        words: what a person calls it.
        memory_bytes: of the machine or its cgroup; of the card, where it computes.
        share: of this memory that a training may hold.
    """

    kind: str
    words: str
    memory_bytes: int
    share: float


def this_machine() -> Machine:
    """Describe the machine that this process runs on."""
    if sys.platform == "darwin":
        return Machine("mac", "a Mac", available_memory_bytes(), 0.8)
    card = card_memory_bytes()
    if card is not None:
        return Machine("cuda", "an NVIDIA card", card, 0.95)
    return Machine("cpu", "a CPU without an NVIDIA card", available_memory_bytes(), 0.8)


def card_memory_bytes() -> int | None:
    """Ask the driver for the memory of the largest NVIDIA card, in bytes; None without one."""
    if shutil.which(NVIDIA[0]) is None:
        return None
    done = subprocess.run(NVIDIA, capture_output=True, text=True, check=False)
    sizes = [int(line) for line in done.stdout.split() if line.isdecimal()]
    return MIB * max(sizes) if sizes else None


def fitting_preset(machine: Machine) -> str | None:
    """Return the preset of this kind that allows most memory among those that fit."""
    limits = limits_gb(machine.kind)
    room_gb = machine.share * machine.memory_bytes / GB
    fitting = [name for name, limit in limits.items() if limit <= room_gb]
    return max(fitting, key=lambda name: limits[name], default=None)


def limits_gb(kind: str) -> dict[str, float]:
    """List the presets of a kind with the memory that each allows, `train.memory_limit_gb`."""
    names = [name for name in options(GROUP) if name.startswith(f"{kind}_") or name == kind]
    return {name: contents(GROUP, name)["train"]["memory_limit_gb"] for name in names}


def preset_text(machine: Machine) -> str:
    """Describe the preset that fits a machine, and how it is used."""
    held = f"This machine computes on {machine.words} with {machine.memory_bytes / GB:.1f} GB."
    name = fitting_preset(machine)
    if name is None:
        limits = limits_gb(machine.kind)
        least = min(limits, key=lambda name: limits[name])
        return (
            f"{held} No preset of conf/hardware fits it: the smallest, hardware={least}, lets a "
            f"training hold {limits[least]:g} GB.\n"
            "`python -m stages.train --plan` shows what the settings of your own take."
        )
    keys = [f"  {key}={json.dumps(value)}" for key, value in flat(contents(GROUP, name))]
    return "\n".join(
        [
            f"{held} hardware={name} fits it. {comment(name)}",
            "It sets, where the command line does not:",
            *keys,
            "It is never chosen by itself. Look at what it takes, then train with it:",
            f"  python -m stages.train hardware={name} --plan",
            f"  dvc exp run -S hardware={name}",
        ]
    )


def comment(name: str) -> str:
    """Read what the file of a preset says of itself, in one line."""
    lines = (CONF / GROUP / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    said = [line[2:] for line in lines if line.startswith("# ") and "@package" not in line]
    return " ".join(said)

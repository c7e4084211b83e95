"""Model folders, wherever they are: on this machine, or on a hub when that is asked for.

The download runs in a process of its own (`python -m pipeline.hub`), the only one that may use
the network; every other process of the pipeline is set offline.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.files import cache_folder
from pipeline.inputs import ROOT, TOKENIZER_FILES, is_hub_id, model_folder, require_network

SETTINGS = ("config.json", "generation_config.json", *TOKENIZER_FILES)
WEIGHTS = ("*.safetensors", "model.safetensors.index.json")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


def locate(source: str, revision: str | None, allow_network: bool, weights: bool) -> Path:
    """Find the folder of `model.source`; fetch it first when it is a hub id and that is allowed.

    Args:
        source: a folder, or a hub id.
        revision: branch, tag or commit of a hub id.
        allow_network: whether the user asked for downloads.
        weights: fetch the weights too, not only config and tokenizer.

    Raises:
        ModelError: when there is no such folder, or the download fails.
    """
    if not is_hub_id(source):
        return model_folder(source)
    require_network(source, allow_network)
    name = re.sub(r"[^\w.-]", "_", f"{source}@{revision or 'main'}")
    folder = cache_folder() / "hub" / name
    patterns = SETTINGS + WEIGHTS if weights else SETTINGS
    environment = {name: value for name, value in os.environ.items() if name not in OFFLINE}
    environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
    command = [sys.executable, "-m", __name__, source, revision or "main", str(folder), *patterns]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise ModelError(
            f"model.source={source}: could not be fetched ({reason[0]}).\n"
            "Look at the id, model.revision, and the network; HF_ENDPOINT names another hub."
        )
    return folder


def fetch(source: str, revision: str, folder: str, *patterns: str) -> None:
    """Download the files of a hub id that match, and nothing that could be run."""
    from huggingface_hub import snapshot_download

    snapshot_download(source, revision=revision, local_dir=folder, allow_patterns=list(patterns))


if __name__ == "__main__":
    fetch(*sys.argv[1:])

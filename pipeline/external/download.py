"""The only process that may use the network: fetches a repository of a hub into a folder.

It runs by itself (`python -m pipeline.external.download`); every other process is set offline.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.files import ROOT, cache_folder

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


class DownloadError(Exception):
    """The reason why nothing could be fetched; the caller adds the remedy."""


def download(kind: str, source: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Fetch the files of a hub id that match.

    Args:
        kind: model or dataset.
        source: the hub id.
        revision: branch, tag or commit; None: the main branch.
        patterns: of the files' names.

    Returns:
        The folder, the same for each call.

    Raises:
        DownloadError: with the last line that the process wrote.
    """
    name = re.sub(r"[^\w.-]", "_", f"{source}@{revision or 'main'}")
    folder = cache_folder() / ("hub" if kind == "model" else "hub-datasets") / name
    environment = {name: value for name, value in os.environ.items() if name not in OFFLINE}
    environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
    command = [sys.executable, "-m", __name__, kind, source, revision or "main", str(folder)]
    done = subprocess.run(
        [*command, *patterns],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DownloadError((done.stderr.strip().splitlines()[-1:] or ["no reason given"])[0])
    return folder


def fetch(kind: str, source: str, revision: str, folder: str, *patterns: str) -> None:
    """Download the files of a hub id that match, and nothing that could be run."""
    from huggingface_hub import snapshot_download

    snapshot_download(
        source,
        repo_type=kind,
        revision=revision,
        local_dir=folder,
        allow_patterns=list(patterns),
        ignore_patterns=["*.py"],
    )


if __name__ == "__main__":
    fetch(*sys.argv[1:])

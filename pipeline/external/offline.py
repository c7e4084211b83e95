"""Keeps the Hugging Face libraries off the network and quiet; what the user has set stays.

They read the environment once, when they are imported, so it is set before that.
"""

import os

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
QUIET = {"TRANSFORMERS_VERBOSITY": "error"}  # it warns of libraries that nothing here needs


def go_offline() -> None:
    """Keep these libraries off the network, here and in every process started from here."""
    for name, value in (OFFLINE | QUIET).items():
        os.environ.setdefault(name, value)

"""Compare the logits of a base with those of transformers: `make check-model`.

python -m tools.check_model [BASE]     BASE is models/base, or what a run by hand wrote

Two rows of 64 random tokens go through both libraries in float32. The difference is printed and
written to runs/check_model.json. One of the two models is in memory at a time.
"""

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.faults import report
from pipeline.device import mx
from pipeline.errors import ConfigError, ModelError, PipelineError
from pipeline.files import ROOT, write_json
from pipeline.formats.logits import Logits, logits_of
from pipeline.model.network.base import open_base, read_manifest, weight_folder
from pipeline.model.source.check import QUANTIZED
from pipeline.model.source.facts import fact
from pipeline.model.source.folder import read_config

NUM_ROWS, ROW_TOKENS = 2, 64
ALLOWED = 1e-3
"""Greatest difference, in standard deviations of the logits, that rounding in float32 explains: it
grows with the number of blocks. Another rotary base or activation differs by more."""
RECORD = ROOT / "runs/check_model.json"


def compare(base: Path) -> dict[str, Any]:
    """Compare the two libraries on a base.

    Args:
        base: what the weights stage wrote.

    Returns:
        What is written to `RECORD`: the difference and the deviation of logits.

    Raises:
        ModelError: when transformers cannot read the base.
    """
    config, manifest = read_config(base), read_manifest(base)
    if config.get(QUANTIZED[0]):
        raise ModelError(
            f"{base}: is packed by MLX, which transformers cannot read.\n"
            "Compare the base that it was made from."
        )
    tokens = random_tokens(fact(config, "vocab_size"))
    ours = np.array(logits_of(open_base(base, "float32").model, mx.array(tokens), base))
    theirs = logits_of_transformers(weight_folder(base, manifest), tokens)
    difference, deviation = float(np.abs(ours - theirs).max()), float(theirs.std())
    return {
        "source": manifest["source"],
        "model_type": config["model_type"],
        "max_abs_logit_difference": difference,
        "logit_std": deviation,
        "difference_in_std": difference / deviation,
        "allowed_in_std": ALLOWED,
    }


def random_tokens(vocabulary: int) -> np.ndarray:
    """Draw the tokens that are compared, the same each time."""
    return np.random.default_rng(0).integers(0, vocabulary, (NUM_ROWS, ROW_TOKENS))


def logits_of_transformers(folder: Path, tokens: np.ndarray) -> Logits:
    """Compute logits by transformers and torch, on the CPU.

    Raises:
        ModelError: when it cannot read the folder, or finds tensors missing or too many.
    """
    import torch
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        several = hasattr(config, "text_config")
        name = "AutoModelForImageTextToText" if several else "AutoModelForCausalLM"
        kind: Any = getattr(transformers, name)
        model, found = kind.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # each architecture fails in its own way
        raise ModelError(
            f"{folder}: transformers cannot read it ({error!r}).\n"
            "Use a version of transformers that has this architecture."
        ) from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(
            f"{folder}: transformers finds no {', '.join(missing[:5])} ({len(missing)} in all).\n"
            "Its numbers would be random there. Fetch or save the model again."
        )
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor(tokens)).logits.numpy()


def refuse_difference(found: dict[str, Any]) -> None:
    """Refuse a base that the two libraries compute differently.

    Raises:
        ModelError: with the figures.
    """
    if not found["difference_in_std"] <= ALLOWED:
        raise ModelError(
            f"{found['source']}: logits differ from those of transformers by "
            f"{found['max_abs_logit_difference']:.3g}, {found['difference_in_std']:.2g} of their "
            f"standard deviation; {ALLOWED:g} is allowed.\n"
            "What would be trained is another model. Please report it with its config.json."
        )


def require_libraries() -> None:
    """Refuse to begin without torch.

    Raises:
        ConfigError: when it is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise ConfigError("torch is not installed.\nRun `make readers`, which installs it.")


def main(arguments: list[str]) -> int:
    """Compare, print and record; return the exit code."""
    base = Path(arguments[0]) if arguments else ROOT / "models/base"
    try:
        require_libraries()
        found = compare(base)
        RECORD.parent.mkdir(exist_ok=True)
        if math.isfinite(found["difference_in_std"]):
            write_json(RECORD, found)
        refuse_difference(found)
    except PipelineError as error:
        return report(error)
    print(
        f"{base}: logits differ from those of transformers by at most "
        f"{found['max_abs_logit_difference']:.3g}, {found['difference_in_std']:.2g} of their "
        f"standard deviation ({NUM_ROWS} x {ROW_TOKENS} tokens; {ALLOWED:g} is allowed)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

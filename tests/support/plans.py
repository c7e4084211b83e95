"""What the tests of the memory plan ask for: small models, and requests with usual values."""

import json
from pathlib import Path

from pipeline.model.network.adapters import AdapterSettings
from pipeline.model.scratch import llama_config
from pipeline.train.finetune import optim_settings
from pipeline.train.plan.request import PlanRequest
from stages import params


def write_llama(folder: Path, hidden: int = 64, blocks: int = 2, vocab: int = 512, **changes):
    """Write the config.json of a Llama with heads of 16, half as many of keys."""
    shape = {
        "hidden_size": hidden,
        "intermediate_size": 11 * hidden // 4,
        "num_hidden_layers": blocks,
        "num_attention_heads": hidden // 16,
        "num_key_value_heads": hidden // 32,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    config = llama_config(shape, vocab, {"bos_token_id": 1, "eos_token_id": 2}) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def request_of(
    folder: Path,
    mode: str = "lora",
    rows: int = 2,
    longest: int = 129,
    micro: int = 1,
    checkpoint: bool = False,
    rank: int = 8,
    num_layers: int | None = None,
    dropout: float = 0.0,
    dtype: str = "float32",
    arrangement: str = "bucketed",
    validation: int | None = None,
    optim: str = "adamw",
    cached: bool = False,
    conflicts: bool = False,
    streams: int = 1,
    float32_copy: bool = True,
) -> PlanRequest:
    """Ask for the plan of a step of micro-batches with so many rows."""
    return PlanRequest(
        folder=folder,
        dtype=dtype,
        adapter=AdapterSettings(
            mode, rank, 2.0 * rank, dropout, num_layers, ("*",), tensors=("model.layers.1.*",)
        ),
        optim=optim_settings(
            params.composed([f"optim={optim}", f"optim.float32_copy={float32_copy}"]), 0
        ),
        batch_size=rows * micro,
        grad_accumulation_steps=micro,
        longest_tokens=longest,
        arrangement=arrangement,
        grad_checkpoint=checkpoint,
        validation_batch_tokens=validation,
        cached_prefix=cached,
        scores_conflicts=conflicts,
        num_streams=streams,
    )

"""Keys of a config.json that change what a model computes, and that its architecture does not read.

mlx-lm drops a key that is no field of the architecture's arguments, without a word. That does no
harm while the key has a value with which it changes nothing.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pipeline.device import nn
from pipeline.errors import ModelError, report_problems
from pipeline.model.network import upstream
from pipeline.model.source.facts import fact, language_part
from pipeline.model.source.spelling import RENAMED

GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh", "gelu_approx")
"""One function; its approximations differ from it by less than 5e-4."""
SILU = ("silu", "swish", "swiglu")
ACTIVATIONS = {
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text", "gemma3n", "gemma4_text"), GELU),
    **dict.fromkeys(("gpt2", "gpt_bigcode", "gpt_neox", "gptj"), GELU),
    **dict.fromkeys(("phi", "phixtral", "recurrent_gemma", "starcoder2"), GELU),
    **dict.fromkeys(("bitnet", "nanochat", "nemotron_h"), ("relu2",)),
    "apertus": ("xielu",),
}
"""What architectures of mlx-lm compute between the matrices, where it is not SiLU."""
ACTIVATION_KEYS = ("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act")
EPSILONS = (
    *("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon"),
    *("norm_eps", "norm_epsilon"),
)
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "alibi": (False,),
    "attention_chunk_size": (),
    "attention_multiplier": (),
    "attn_logit_softcapping": (0,),
    "attn_temperature_tuning": (False, 0),
    "clip_qkv": (),
    "embedding_multiplier": (1,),
    "final_logit_softcapping": (0,),
    "lm_head_multiplier": (1,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "n_group": (1,),
    "norm_topk_prob": (False,),
    "residual_multiplier": (1,),
    "rotary_pct": (1,),
    "routed_scaling_factor": (1,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "scale_depth": (),
    "scale_emb": (1,),
    "topk_group": (1,),
    "use_bidirectional_attention": (False,),
    "use_parallel_residual": (False,),
}
"""Values with which a key changes nothing, null apart, whatever the architecture."""
ROTATION = {"partial_rotary_factor": (1,), "rope_theta": (10_000,), "rope_local_base_freq": ()}
"""The same of rotary embeddings."""
PLAIN_SCALING = ("default", "mrope")
"""Types of `rope_scaling` that leave the positions of text as they are."""


def check_all_read(folder: Path, config: dict[str, Any], model: nn.Module) -> None:
    """Refuse a config.json of which mlx-lm would compute another model.

    Args:
        folder: the user's, for the message.
        config: of the model, in the words of mlx-lm.
        model: built from it.

    Raises:
        ModelError: with each key that changes what is computed and is not read.
    """
    path, kind = folder / "config.json", fact(config, "model_type")
    headline = f"{path}: mlx-lm's {kind} does not read these keys, and computes another model:"
    remedy = "Use a model of another architecture, or a version of mlx-lm that reads them."
    report_problems(ModelError, headline, unread_keys(config, model), remedy)


def unread_keys(config: dict[str, Any], model: nn.Module) -> list[str]:
    """Name the keys that change what a model computes, and that its architecture does not read.

    Args:
        config: of the model, in the words of mlx-lm.
        model: built from it.
    """
    text, fields, activation = language_part(config), dict[str, Any](), SILU
    for arguments in argument_objects(config, model):
        fields |= {
            field.name: getattr(arguments, field.name, None)
            for field in dataclasses.fields(arguments)
        }
        activation = ACTIVATIONS.get(arguments.__module__.rpartition(".")[2], activation)
    renamed = RENAMED.get(fact(config, "model_type"), {})
    fields |= {other: fields[name] for name, other in renamed.items() if name in fields}
    neutral = {**NEUTRAL, **dict.fromkeys(ACTIVATION_KEYS, activation)}
    neutral |= dict.fromkeys(EPSILONS, tuple(fields.get(name) for name in EPSILONS))
    neutral["query_pre_attn_scalar"] = (fact(config, "head_dim"),)
    if "rope_parameters" not in fields:
        neutral |= ROTATION | {"rope_local_base_freq": (text.get("rope_theta"),)}
    unread = [
        f"{name}={text[name]!r}"
        for name, values in neutral.items()
        if name not in fields and text.get(name) is not None and text[name] not in values
    ]
    return sorted(unread + unread_scaling(text, fields))


def argument_objects(config: dict[str, Any], model: nn.Module) -> Iterator[Any]:
    """List what mlx-lm's model was built from: the class of its arguments, and each set of them."""
    yield upstream.model_classes(config)[1]
    for module in model.modules():
        yield from (value for value in vars(module).values() if dataclasses.is_dataclass(value))


def unread_scaling(text: dict[str, Any], fields: Collection[str]) -> list[str]:
    """Name what of the scaling of rotary embeddings is not read."""
    scaling = text.get("rope_scaling") or {}
    kind = scaling.get("type", "default")
    if kind in PLAIN_SCALING:
        return []
    if not {"rope_scaling", "rope_parameters"} & set(fields):
        return [f"rope_scaling={scaling!r}"]
    sliding = (text.get("rope_parameters") or {}).get("sliding_attention") or {}
    unread = []
    if sliding.get("rope_type", "default") not in PLAIN_SCALING:
        unread.append(f"rope_parameters.sliding_attention.rope_type={sliding['rope_type']!r}")
    factor = scaling.get("attention_factor")
    if factor is not None and not math.isclose(factor, computed_factor(scaling, text)):
        unread.append(f"rope_scaling.attention_factor={factor!r}")
    return unread


def computed_factor(scaling: dict[str, Any], text: dict[str, Any]) -> float:
    """Compute what mlx-lm multiplies queries and keys by (arXiv 2309.00071 §3.4, 2402.13753)."""
    if scaling["type"] == "yarn":
        return 0.1 * math.log(scaling["factor"]) + 1
    before = text.get("original_max_position_embeddings") or 1
    after = text.get("max_position_embeddings") or before
    return math.sqrt(1 + math.log(after / before) / math.log(before)) if after > before > 1 else 1

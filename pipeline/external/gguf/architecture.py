"""What a GGUF file calls the parts of a model, and what Hugging Face calls them.

llama.cpp's converter (`convert_hf_to_gguf.py`) names them so, and lays the rows of queries and keys
of Llama in another order, because it rotates neighbouring numbers where Hugging Face rotates the
two halves of a head.
"""

import math
import re
from typing import Any

import numpy as np

from pipeline.errors import ModelError, report_problems
from pipeline.external.gguf.header import Header

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
INTERLEAVED = ("llama", "mistral")
"""Architectures whose queries and keys are stored in llama.cpp's order."""
NUMBERS = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "context_length": "max_position_embeddings",
    "rope.freq_base": "rope_theta",
}
DEFAULTS = {"rope.freq_base": 10_000.0}
READ_ELSEWHERE = (
    "vocab_size",
    "rope.dimension_count",
    "attention.key_length",
    "attention.value_length",
    "rope.scaling.type",
    "rope.scaling.factor",
)
OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
INNER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROPE_FACTORS = "rope_freqs.weight"
BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
LLAMA3_SCALING = [
    {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    for factor in (8.0, 32.0)
]
"""Of Llama 3.1 and 3.2: a GGUF file holds what follows from one of them, not the numbers."""


def architecture_of(header: Header) -> str:
    """Return the architecture.

    Raises:
        ModelError: when it is not among those that are read.
    """
    name = header.values.get("general.architecture")
    if name not in ARCHITECTURES:
        raise ModelError(
            f"model.source={header.path}: its architecture is {name!r}, and of GGUF files "
            f"{', '.join(ARCHITECTURES)} are read.\n"
            "Give the model's Hugging Face folder (config.json and *.safetensors)."
        )
    return name


def tensor_names(header: Header) -> dict[str, str]:
    """Map the names in the file to Hugging Face's.

    Raises:
        ModelError: with every tensor that has none.
    """
    found = {
        tensor.name: name for tensor in header.tensors if (name := hugging_face_name(tensor.name))
    }
    unknown = [each.name for each in header.tensors if each.name not in {*found, ROPE_FACTORS}]
    headline = f"model.source={header.path}: nothing is known of these tensors:"
    remedy = "Give the model's Hugging Face folder."
    report_problems(ModelError, headline, unknown, remedy)
    return found


def hugging_face_name(name: str) -> str | None:
    """Return Hugging Face's name of a tensor; None where it has none."""
    match = BLOCK.fullmatch(name)
    if match is None:
        return OUTER.get(name)
    block, part, kind = match.groups()
    return f"model.layers.{block}.{INNER[part]}.{kind}" if part in INNER else None


def config_of(header: Header, factors: np.ndarray | None) -> dict[str, Any]:
    """Make the config.json of a file.

    Args:
        header: of the file.
        factors: by which the wavelengths of positions are multiplied; None: by nothing.

    Raises:
        ModelError: when a number is missing or no number, or when a number stands there that
            Hugging Face's config has no place for.
    """
    name = architecture_of(header)
    facts = Facts(header, name)
    numbers = {ours: facts.number(theirs) for theirs, ours in NUMBERS.items()}
    heads = numbers["num_attention_heads"]
    names = {tensor.name for tensor in header.tensors}
    return {
        "architectures": [ARCHITECTURES[name]],
        "model_type": name,
        **numbers,
        "vocab_size": len(header.values.get("tokenizer.ggml.tokens", ())),
        "head_dim": facts.number("attention.key_length", numbers["hidden_size"] // heads),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in names,
        "mlp_bias": False,
        "tie_word_embeddings": "output.weight" not in names,
        "rope_scaling": facts.rope_scaling(factors),
        "torch_dtype": "float32",
    }


class Facts:
    """The numbers that a header has under the name of its architecture."""

    def __init__(self, header: Header, name: str) -> None:
        """Take them.

        Raises:
            ModelError: with every key that nothing is known of.
        """
        self.path, self.name = header.path, name
        self.values = {
            key.removeprefix(f"{name}."): value
            for key, value in header.values.items()
            if key.startswith(f"{name}.")
        }
        unknown = [
            f"{name}.{key}={value}"
            for key, value in self.values.items()
            if key not in NUMBERS and key not in READ_ELSEWHERE
        ]
        headline = f"model.source={self.path}: its header has keys that no config.json stands for:"
        report_problems(ModelError, headline, unknown, "Give the model's Hugging Face folder.")

    def number(self, key: str, default: int | float | None = None) -> Any:  # noqa: ANN401
        """Return a positive number.

        Raises:
            ModelError: when there is none.
        """
        default = DEFAULTS.get(key) if default is None else default
        if key == "attention.head_count_kv" and default is None:
            default = self.values.get("attention.head_count")
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            raise ModelError(
                f"model.source={self.path}: {self.name}.{key} is {value!r}, and a positive number "
                "is needed.\nFetch the file again, or give the model's Hugging Face folder."
            )
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def rope_scaling(self, factors: np.ndarray | None) -> dict[str, Any] | None:
        """Return how positions are scaled, as Hugging Face's config has it.

        Raises:
            ModelError: when they are scaled in a way that cannot be put into it.
        """
        kind = self.values.get("rope.scaling.type", "none")
        if factors is not None:
            for scaling in LLAMA3_SCALING:
                expected = llama3_factors(scaling, self.number("rope.freq_base"), len(factors))
                if np.allclose(factors, expected, rtol=1e-5):
                    return scaling
        elif kind == "none":
            return None
        elif kind == "linear":
            return {"rope_type": "linear", "factor": self.number("rope.scaling.factor")}
        raise ModelError(
            f"model.source={self.path}: scales its positions "
            f"{'by factors of its own' if factors is not None else f'as {kind!r}'}, which no "
            "config.json of Llama 3.1 or 3.2 stands for.\nGive the model's Hugging Face folder."
        )


def llama3_factors(scaling: dict[str, Any], base: float, count: int) -> np.ndarray:
    """Compute the factors of the wavelengths, as transformers does (`_compute_llama3_parameters`).

    Args:
        scaling: `rope_scaling` of config.json.
        base: `rope_theta`.
        count: half the width of a head.
    """
    wavelengths = 2 * math.pi * base ** (np.arange(count) / count)
    turns = scaling["original_max_position_embeddings"] / wavelengths
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / scaling["factor"] + smooth)


def reordered(values: np.ndarray, num_heads: int) -> np.ndarray:
    """Put rows of queries or keys, each head's pairs interleaved, into Hugging Face's order.

    Args:
        values: [rows, …], rows = heads x width of a head.
        num_heads: of queries, or of keys.
    """
    rows, *rest = values.shape
    pairs = values.reshape(num_heads, rows // num_heads // 2, 2, *rest)
    return pairs.swapaxes(1, 2).reshape(values.shape)

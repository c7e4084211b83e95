"""Tiny models of many architectures, as transformers saves them."""

import dataclasses

VOCABULARY = 64
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
HEAD = {"head_dim": 8}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
    "full_attention_interval": 2,
}
GEMMA_3 = {"query_pre_attn_scalar": 8, "num_hidden_layers": 6, "hidden_size": 64}
"""mlx-lm rounds the root of `hidden_size` to bfloat16, as training did; that of 64 is exact."""
LLLG = ["sliding_attention"] * 3 + ["full_attention"]
SHARED_EXPERTS = {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1}
LATENT = {
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
QWEN_VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
    "patch_size": 4,
}
EXACT = "with the exact GELU, which mlx-lm computes; its approximation differs by 0.001"
PACKED = "experts as plain matrices; mlx-lm reads them packed in 4 bits, as published"
PART_OF_HEAD = "`partial_rotary_factor`, which mlx-lm does not read here"
STACKED = "experts one by one, as transformers 5 saves them; mlx-lm reads them as published"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A model of transformers, and what is missing where it does not come through.

    Attributes:
        config: class of its configuration.
        settings: of that class, next to `SHAPE`.
        nested: whether `SHAPE` and the settings describe the language model among several parts.
        outer: settings of the whole, where they are nested.
        missing: what stops it, where something does.
        remark: what the settings leave out, where that matters.
    """

    config: str
    settings: dict = dataclasses.field(default_factory=dict)
    nested: bool = False
    outer: dict = dataclasses.field(default_factory=dict)
    missing: str = ""
    remark: str = ""


ARCHITECTURES = {
    "llama": Architecture("LlamaConfig"),
    "mistral": Architecture("MistralConfig", HEAD | {"sliding_window": None}),
    "qwen2": Architecture("Qwen2Config"),
    "qwen3": Architecture("Qwen3Config", HEAD),
    "gemma2": Architecture("Gemma2Config", HEAD | {"query_pre_attn_scalar": 8}),
    "gemma3_text": Architecture("Gemma3TextConfig", HEAD | GEMMA_3),
    "gemma3": Architecture(
        "Gemma3Config",
        HEAD | GEMMA_3,
        nested=True,
        outer={"vision_config": VISION, "mm_tokens_per_image": 1},
    ),
    "phi3": Architecture("Phi3Config"),
    "olmo2": Architecture("Olmo2Config"),
    "granite": Architecture("GraniteConfig", {"embedding_multiplier": 2.0, "logits_scaling": 2.0}),
    "starcoder2": Architecture("Starcoder2Config", {"hidden_act": "gelu"}, remark=EXACT),
    "cohere": Architecture("CohereConfig"),
    "smollm3": Architecture("SmolLM3Config", {"no_rope_layers": [1, 0]}),
    "gpt_oss": Architecture(
        "GptOssConfig", HEAD | {"num_local_experts": 4, **EXPERTS}, missing=PACKED
    ),
    "mixtral": Architecture("MixtralConfig", HEAD | {"num_local_experts": 4}),
    "qwen2_moe": Architecture(
        "Qwen2MoeConfig", EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 16}
    ),
    "qwen3_moe": Architecture("Qwen3MoeConfig", HEAD | EXPERTS | {"num_experts": 4}),
    "glm4_moe": Architecture("Glm4MoeConfig", HEAD | EXPERTS | SHARED_EXPERTS),
    "lfm2": Architecture("Lfm2Config", {"full_attn_idxs": [1], "block_auto_adjust_ff_dim": False}),
    "qwen3_next": Architecture(
        "Qwen3NextConfig",
        HEAD | EXPERTS | DELTA | {"num_experts": 4, "shared_expert_intermediate_size": 16},
    ),
    "qwen3_5": Architecture(
        "Qwen3_5Config",
        HEAD | DELTA,
        nested=True,
        outer={"vision_config": QWEN_VISION},
    ),
    "gemma": Architecture("GemmaConfig", HEAD | {"hidden_act": "gelu_python"}, remark=EXACT),
    "olmo3": Architecture("Olmo3Config", {"num_hidden_layers": 4}),
    "olmoe": Architecture("OlmoeConfig", {"num_experts": 4, "num_experts_per_tok": 2}),
    "granitemoe": Architecture(
        "GraniteMoeConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}
    ),
    "dots1": Architecture("Dots1Config", HEAD | EXPERTS | SHARED_EXPERTS),
    "glm": Architecture("GlmConfig", HEAD, missing=PART_OF_HEAD),
    "glm4": Architecture("Glm4Config", HEAD),
    "seed_oss": Architecture("SeedOssConfig", HEAD),
    "exaone4": Architecture(
        "Exaone4Config",
        HEAD | {"num_hidden_layers": 4, "sliding_window_pattern": "LLLG", "layer_types": LLLG},
    ),
    "ernie4_5": Architecture("Ernie4_5Config", HEAD),
    "helium": Architecture("HeliumConfig", HEAD),
    "hunyuan_v1_dense": Architecture("HunYuanDenseV1Config", HEAD),
    "cohere2": Architecture("Cohere2Config", HEAD | {"num_hidden_layers": 4}),
    "mistral3": Architecture(
        "Mistral3Config",
        HEAD,
        nested=True,
        outer={"vision_config": VISION, "tie_word_embeddings": False},
        remark="with a head of its own, as published; a tied one is refused",
    ),
    "ministral3": Architecture("Ministral3Config", HEAD),
    "qwen3_vl": Architecture(
        "Qwen3VLConfig",
        HEAD,
        nested=True,
        outer={"vision_config": QWEN_VISION | {"deepstack_visual_indexes": [0]}},
    ),
    "qwen3_5_moe": Architecture(
        "Qwen3_5MoeConfig",
        HEAD | DELTA | EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 16},
        nested=True,
        outer={"vision_config": QWEN_VISION},
        missing=STACKED,
    ),
    "deepseek_v3": Architecture("DeepseekV3Config", EXPERTS | SHARED_EXPERTS | LATENT),
    "lfm2_moe": Architecture(
        "Lfm2MoeConfig",
        EXPERTS
        | {"num_experts": 4, "num_dense_layers": 1, "layer_types": ["conv", "full_attention"]},
    ),
    "falcon_h1": Architecture("FalconH1Config", HEAD),
    "phi": Architecture("PhiConfig", {"num_key_value_heads": 4}),
    "gptj": Architecture(
        "GPTJConfig", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "rotary_dim": 4}
    ),
    "nemotron": Architecture("NemotronConfig"),
    "stablelm": Architecture("StableLmConfig"),
    "gpt_neox": Architecture("GPTNeoXConfig", {"intermediate_size": 128, "hidden_act": "gelu_new"}),
}


def save(name, folder):
    """Make a model with random weights of one size, and save it by transformers."""
    import torch
    import transformers

    torch.manual_seed(0)
    known = ARCHITECTURES[name]
    settings = {**SHAPE, **known.settings}
    if known.nested:
        settings = {"text_config": settings, **known.outer}
    config = getattr(transformers, known.config)(**settings)
    model = auto_class(config).from_config(config).float().eval()
    for value in model.parameters():
        drawn = torch.randn_like(value)
        value.data = drawn * 0.15 if value.ndim > 1 else value.data + drawn * 0.1
    model.save_pretrained(folder)
    return model


def auto_class(config):
    """Return the class of transformers that loads a model of a configuration."""
    import transformers

    if hasattr(config, "text_config"):
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM

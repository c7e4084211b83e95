"""Which architectures the table of docs/models.md knows."""

from pathlib import Path

from pipeline.model.source.folder import read_config

IN_THE_TABLE = {
    "cohere",
    "cohere2",
    "deepseek_v3",
    "dots1",
    "ernie4_5",
    "exaone4",
    "falcon_h1",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "glm",
    "glm4",
    "glm4_moe",
    "gpt_neox",
    "gpt_oss",
    "gptj",
    "granite",
    "granitemoe",
    "helium",
    "hunyuan_v1_dense",
    "lfm2",
    "lfm2_moe",
    "llama",
    "ministral3",
    "mistral",
    "mistral3",
    "mixtral",
    "nemotron",
    "olmo2",
    "olmo3",
    "olmoe",
    "phi",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_moe",
    "qwen3_next",
    "qwen3_vl",
    "seed_oss",
    "smollm3",
    "stablelm",
    "starcoder2",
}
"""Values of `model_type`. A test compares them with the table, which another test makes."""


def unproven_notice(folder: Path) -> str | None:
    """Warn of an architecture that no test has sent from load to export; None where one has.

    Args:
        folder: holds config.json.
    """
    name = read_config(folder)["model_type"]
    if name in IN_THE_TABLE:
        return None
    return (
        f"model_type={name} is in no row of docs/models.md: nothing has compared it with another "
        "library. `make check-model` compares its logits with those of transformers."
    )

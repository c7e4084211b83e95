"""Every way of training, for tests that hold in all of them."""

from pipeline.model.network.adapters import AdapterSettings

MODES = {
    "lora": {},
    "rslora": {"mode": "lora", "rslora": True},
    "lora, embeddings": {"mode": "lora", "targets": ("q_proj", "embed_tokens")},
    "dora": {},
    "dora, embeddings": {"mode": "dora", "targets": ("v_proj", "embed_tokens")},
    "head": {},
    "full": {},
    "tensors": {"tensors": ("model.norm.weight", "model.layers.1.*_proj.weight")},
}


def settings_of(kind: str, **changes) -> AdapterSettings:
    """Give the settings of a way of training, with some changed."""
    usual = {"mode": kind, "rank": 4, "alpha": 8.0, "dropout": 0.0, "num_layers": None}
    return AdapterSettings(**{**usual, "targets": ("*",), **MODES[kind], **changes})

"""A trained model in a workplace, to be exported and read back."""

from pipeline.config.schema import EXPORT_FORMATS
from pipeline.device import mx, nn
from pipeline.files import write_json
from pipeline.formats import fused
from pipeline.formats.export import export
from pipeline.formats.logits import proof_inputs
from pipeline.model.network.adapters import apply, save_adapter
from pipeline.model.network.base import load_base, write_manifest
from pipeline.model.network.tree import named_arrays, trainable_arrays
from pipeline.model.scratch import initialize
from tests.support.modes import settings_of

TOKENS = mx.array([[1, 5, 9, 33, 2, 60, 7, 8]])


FORMATS = list(EXPORT_FORMATS)


def stored(kind, config):
    """Make a base as it is stored, and its config.json: float32, 16 bits, 4 bits, experts."""
    config = {**config, "hidden_size": 64, "intermediate_size": 64}
    if kind == "experts":
        config |= {"model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2}
    model = initialize(config, seed=0)
    if kind in {"bfloat16", "float16"}:
        model.set_dtype(getattr(mx, kind))
        config["torch_dtype"] = kind
    if kind == "quantised":
        nn.quantize(model, group_size=32, bits=4)
        config["quantization"] = {"group_size": 32, "bits": 4}
    return model, config


def apart(weights):
    """Name the tensors of a Mixtral as its published files do, each expert by itself."""
    names = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
    found = {}
    for name, value in weights.items():
        before, *rest = name.split(".switch_mlp.")
        if not rest:
            found[name] = value
            continue
        layer, leaf = rest[0].split(".")
        for number, expert in enumerate(value):
            found[f"{before}.experts.{number}.{names[layer]}.{leaf}"] = expert
    return found


class Workplace:
    """A base, an adapter trained on it, and prepared data, as the stages leave them."""

    def __init__(self, folder, config, kind, mode, settings):
        self.base, self.trained = folder / "base", folder / "trained"
        self.prepared, self.exported = folder, folder / "export"
        self.base.mkdir()
        self.source = folder / "source"
        self.source.mkdir()
        model, self.config = stored(kind, config)
        weights = apart(named_arrays(model.parameters()))
        mx.save_safetensors(str(self.source / "model.safetensors"), weights)
        write_json(self.source / "config.json", self.config)
        (self.base / "tokenizer.json").write_text("{}")
        write_manifest(self.base, self.source, "some/source", "hash")
        tuned = load_base(self.base, "float32").model
        adapter_config = apply(tuned, settings_of(mode, **settings), seed=1)
        key = mx.random.key(2)
        for name, value in trainable_arrays(tuned).items():
            key, own = mx.random.split(key)
            moved = value + mx.random.normal(value.shape, scale=0.05, key=own)
            tuned.load_weights([(name, moved)], strict=False)
        save_adapter(self.trained, trainable_arrays(tuned), adapter_config)
        self.tuned = tuned

    def export(self, formats):
        return export(self.base, self.trained, self.prepared, formats, self.exported.joinpath)


def largest(difference):
    return float(mx.abs(difference).max())


def proof_inputs_of(workplace):
    from pipeline.data.store import held_out_store

    return proof_inputs(held_out_store(workplace.prepared))


def lose_adapter(model):
    """Drop every adapter, as fusing into rounded weights can."""
    from mlx_lm.tuner.utils import remove_lora_layers

    remove_lora_layers(model)


def halve_adapter(model):
    """Fuse with half the scale."""
    for _, module in model.named_modules():
        if "lora_a" in module:
            module.scale /= 2
    fuse_truly(model)


fuse_truly = fused.fuse

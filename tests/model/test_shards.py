"""Weights written one by one, into the files that mlx-lm would write."""

import gc
from functools import partial

import mlx_lm.utils
import pytest

from pipeline.device import mx, nn, tree_map
from pipeline.model.network import upstream
from pipeline.model.network.tree import named_arrays
from pipeline.model.scratch import initialize
from pipeline.model.shards import save_model


def made(config, kind):
    """Make a model as it may be stored."""
    model = initialize({**config, "hidden_size": 64, "intermediate_size": 64}, seed=0)
    if kind == "4 bits":
        nn.quantize(model, group_size=32, bits=4)
    elif kind != "float32":
        model.set_dtype(getattr(mx, kind))
    return model


def shards(weights, num_files):
    """Split weights as if a file could hold only so many."""
    names = list(weights)
    return [{name: weights[name] for name in names[start::num_files]} for start in range(num_files)]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16", "4 bits"])
@pytest.mark.parametrize("num_files", [1, 3])
def test_the_files_are_those_of_mlx_lm(tmp_path, tiny_config, monkeypatch, kind, num_files):
    model = made(tiny_config, kind)
    model.scalar = mx.array(2.5)
    if num_files > 1:
        split = partial(shards, num_files=num_files)
        monkeypatch.setattr(mlx_lm.utils, "make_shards", split)
        monkeypatch.setattr(upstream, "make_shards", split)
    mlx_lm.utils.save_model(tmp_path / "theirs", model)
    (tmp_path / "ours").mkdir()
    save_model(tmp_path / "ours", model)
    theirs = contents(tmp_path / "theirs")
    assert len(theirs) == num_files + 1
    assert contents(tmp_path / "ours") == theirs


def test_a_model_is_never_in_memory_as_a_whole(tmp_path):
    model = nn.Sequential(*(nn.Linear(512, 512, bias=False) for _ in range(16)))
    size = sum(value.nbytes for value in named_arrays(model.parameters()).values())
    (tmp_path / "one").mkdir()
    mx.eval(model.parameters())
    save_model(tmp_path / "one", model)
    again = nn.Sequential(*(nn.Linear(512, 512, bias=False) for _ in range(16)))
    again.load_weights(str(tmp_path / "one/model.safetensors"))
    again.update(tree_map(lambda value: value * 2, again.parameters()))
    gc.collect()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    (tmp_path / "other").mkdir()
    save_model(tmp_path / "other", again)
    assert mx.get_peak_memory() - before < size / 4

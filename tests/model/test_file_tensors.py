"""Tensors of a base's files, computed back from the arrays of its model."""

from types import SimpleNamespace

import pytest

from pipeline.device import mx, nn
from pipeline.errors import ModelError
from pipeline.model.file_tensors import by_stack, file_tensors, tensors_read
from pipeline.model.network.tree import shapes


class Rearranged(nn.Module):
    """A model whose arrays are tensors of files that are moved in every way mlx-lm knows."""

    def __init__(self, args):
        super().__init__()
        self.args = args

    def sanitize(self, weights):
        if hasattr(self, "asked"):
            raise KeyError("a model may be asked once, as one of mlx-lm")
        self.asked = True
        gate, up = weights["both"][::2], weights["both"][1::2]
        return {
            "stack": mx.stack([weights["experts.0.w"], weights["experts.1.w"]]),
            "turned": weights["conv"].moveaxis(2, 1),
            "gate": gate,
            "up": up,
            "norm": weights["norm"] + 1.0,
            "head": mx.concatenate([weights["a"], weights["b"]]),
        }


FILES = {
    "experts.0.w": (3, 4),
    "experts.1.w": (3, 4),
    "conv": (5, 1, 4),
    "both": (6, 2),
    "norm": (4,),
    "a": (2, 3),
    "b": (1, 3),
    "vision.w": (7,),
}
READ = FILES.keys() - {"vision.w"}
MODEL = Rearranged(SimpleNamespace())


def drawn(scale=1.0):
    key = mx.random.key(0)
    found = {}
    for name, shape in FILES.items():
        key, own = mx.random.split(key)
        found[name] = mx.random.normal(shape, scale=scale, key=own)
    return found


def arrays_of(tensors):
    return Rearranged(MODEL.args).sanitize(dict(tensors))


def test_tensors_are_computed_back_to_the_bit():
    tensors = drawn()
    found = file_tensors(MODEL, FILES, arrays_of(tensors))
    assert shapes(found) == FILES
    for name in READ - {"norm"}:
        assert mx.array_equal(found[name], tensors[name])
    assert mx.allclose(found["norm"], tensors["norm"], atol=1e-6)  # one was added to it
    assert not mx.any(found["vision.w"])


def test_what_the_model_drops_is_known():
    assert tensors_read(MODEL, FILES, arrays_of(drawn())) == READ


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda found: found["norm"] / 2, "its numbers are read 0.5 to 0.5 times"),
        (lambda found: found["norm"][:2], "its numbers are read 0 to 1 times"),
        (lambda found: mx.tile(found["norm"], 2), "its numbers are read 2 to 2 times"),
    ],
)
def test_tensors_that_are_changed_as_they_are_read_are_refused(change, problem):
    class Changed(Rearranged):
        def sanitize(self, weights):
            found = super().sanitize(weights)
            return {**found, "norm": change(found)}

    arrays = Changed(MODEL.args).sanitize(drawn())
    message = (
        rf"These tensors are not moved but changed as they are read:\n  norm: {problem}\n.*"
        r"Use export\.formats=\[adapter\]\."
    )
    with pytest.raises(ModelError, match=message):
        tensors_read(Changed(MODEL.args), FILES, arrays)


def test_files_that_do_not_make_the_model_are_refused():
    arrays = arrays_of(drawn())
    fewer = {name: shape for name, shape in FILES.items() if name != "conv"}
    with pytest.raises(ModelError, match=r"cannot be told from the model \(KeyError\('conv'\)\)"):
        file_tensors(MODEL, fewer, arrays)
    wider = FILES | {"norm": (5,)}
    message = r"These arrays differ in shape:\n  norm: \(5,\) of the files, \(4,\) of the model"
    with pytest.raises(ModelError, match=message):
        file_tensors(MODEL, wider, arrays)


def test_a_step_without_derivative_is_refused():
    class Packed(Rearranged):
        def sanitize(self, weights):
            found = super().sanitize(weights)
            return {**found, "norm": found["norm"].view(mx.uint32)}

    arrays = Packed(MODEL.args).sanitize(drawn())
    with pytest.raises(ModelError, match=r"Tensors of these files cannot be computed back \("):
        file_tensors(Packed(MODEL.args), FILES, arrays)


def test_experts_of_one_stack_follow_each_other():
    names = [
        f"layers.{layer}.experts.{n}.{w}" for layer in (0, 10) for n in (0, 2, 11) for w in "ab"
    ]
    kinds = [(name[: name.rindex(".")].rpartition(".")[0], name[-1]) for name in by_stack(names)]
    assert sorted(names) == sorted(by_stack(names))
    assert len({*kinds}) == sum(kinds[i] != kinds[i - 1] for i in range(len(kinds)))

"""Optimizers: each against another one's implementation, and by the laws they must keep."""

import math

import numpy as np
import pytest

from pipeline.config.optimizers import OPTIMIZERS, SCHEDULES, DecayingOptim
from pipeline.device import mx
from pipeline.errors import ConfigError
from pipeline.model.network.tree import named_arrays
from pipeline.optim.optimizer import RULES, OptimSettings, make_optimizer
from pipeline.optim.schedules import FALLS
from pipeline.train.finetune import optim_settings
from stages.params import composed

NAMES = tuple(OPTIMIZERS)
EACH = pytest.mark.parametrize("name", NAMES)
SHAPES = {"embed.weight": (7, 4), "layers.0.proj.weight": (6, 4), "layers.0.norm.weight": (4,)}
WIDE = {"layers.0.weight": (24, 20)}
LEVEL = {"schedule": "constant", "final_fraction": None, "warmup_fraction": 0.0}


def settings_of(name, **changes):
    """Compose the section as a stage does, with some keys changed."""
    given = [f"optim.{key}={'null' if value is None else value}" for key, value in changes.items()]
    return optim_settings(composed([f"optim={name}", *given]), 0)


def level(name, **changes):
    return settings_of(name, **{**LEVEL, **changes})


def series(num_steps, shapes=SHAPES, scale=0.02, seed=0):
    """Make first weights and gradients; the gradients change their size on the way."""
    generator = np.random.default_rng(seed)

    def draw(shape):
        return generator.normal(size=shape).astype(np.float32)

    first = {name: scale * draw(shape) for name, shape in shapes.items()}
    sizes = [np.float32(math.exp(math.sin(step / 9))) for step in range(num_steps)]
    return first, [{name: size * draw(shape) for name, shape in shapes.items()} for size in sizes]


def run(settings, first, gradients, num_steps=None):
    """Give the weights after each update, by name."""
    weights = {name: mx.array(value) for name, value in first.items()}
    optimizer = make_optimizer(settings, num_steps or len(gradients))
    optimizer.init(weights)
    for gradient in gradients:
        given = {name: mx.array(value) for name, value in gradient.items()}
        weights = optimizer.apply_gradients(given, weights)
        mx.eval(weights, optimizer.state)
        yield {name: np.array(value) for name, value in weights.items()}


def greatest_difference(ours, theirs, first):
    """Compare two series of weights: the greatest distance as a share of the way gone so far."""
    found = 0.0
    for one, other in zip(ours, theirs, strict=True):
        for name, start in first.items():
            way = np.linalg.norm(other[name].astype(np.float64) - start)
            found = max(found, np.linalg.norm(one[name].astype(np.float64) - other[name]) / way)
    return found


def by_torch(torch, make, first, gradients):
    """Give the weights after each update of one of torch's optimizers."""
    weights = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in first.items()}
    optimizer = make(list(weights.values()))
    for gradient in gradients:
        for name, weight in weights.items():
            weight.grad = torch.tensor(gradient[name])
        optimizer.step()
        yield {name: weight.detach().numpy().copy() for name, weight in weights.items()}


# Against others


@pytest.mark.parametrize(
    ("betas", "weight_decay", "rate"),
    [
        ((0.9, 0.999), 0.0, 1e-2),
        ((0.9, 0.999), 0.1, 1e-2),
        ((0.9, 0.999), 0.1, 1e-4),
        ((0.9, 0.95), 0.1, 1e-2),
        ((0.95, 0.9999), 0.1, 1e-3),
        ((0.0, 0.99), 0.0, 1e-3),
    ],
)
def test_adamw_is_torchs(readers, betas, weight_decay, rate):
    """MLX's own is off by 7e-6: it forms 1 - 0.999^t in float32.

    Weights are of the size that models start with: beside much larger ones, or after much smaller
    updates, what remains is the rounding of the weights themselves.
    """
    torch = readers("torch")
    first, gradients = series(400, WIDE)
    keys = {"learning_rate": rate, "weight_decay": weight_decay, "no_decay": []}
    settings = level("adamw", **keys, beta1=betas[0], beta2=betas[1])
    theirs = by_torch(
        torch,
        lambda weights: torch.optim.AdamW(weights, rate, betas, weight_decay=weight_decay),
        first,
        gradients,
    )
    found = greatest_difference(run(settings, first, gradients), theirs, first)
    print(f"greatest difference {found:.2e}")
    assert found < 1e-6


def test_adam_is_torchs(readers):
    torch = readers("torch")
    first, gradients = series(200, WIDE)
    theirs = by_torch(torch, lambda weights: torch.optim.Adam(weights, 2e-3), first, gradients)
    ours = run(level("adam"), first, gradients)
    assert greatest_difference(ours, theirs, first) < 1e-6


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_sgd_is_torchs(readers, momentum, weight_decay):
    torch = readers("torch")
    first, gradients = series(200, WIDE)
    keys = {"momentum": momentum, "weight_decay": weight_decay}
    theirs = by_torch(
        torch, lambda weights: torch.optim.SGD(weights, 0.1, **keys), first, gradients
    )
    ours = run(level("sgd", no_decay=[], **keys), first, gradients)
    assert greatest_difference(ours, theirs, first) < 1e-6


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adafactor_is_torchs_without_its_factor_for_the_size_of_weights(readers, weight_decay):
    """Torch's factor is max(eps2, size): with eps2 = 1 it is 1 for weights that are not large.

    MLX forms the share of the new from that of the old, which costs two digits of seven.
    """
    torch = readers("torch")
    first, gradients = series(200, WIDE)
    theirs = by_torch(
        torch,
        lambda weights: torch.optim.Adafactor(
            weights, 2e-3, eps=(1e-15, 1.0), weight_decay=weight_decay
        ),
        first,
        gradients,
    )
    ours = run(level("adafactor", weight_decay=weight_decay, no_decay=[]), first, gradients)
    assert greatest_difference(ours, theirs, first) < 1e-5


def test_the_momentum_of_muon_is_torchs(readers):
    """Torch orthogonalises in bfloat16, with its 8 bits."""
    torch = readers("torch")
    shapes = {"layers.0.tall": (12, 5), "layers.0.wide": (4, 9)}
    first, gradients = series(40, shapes)
    theirs = by_torch(
        torch,
        lambda weights: torch.optim.Muon(
            weights, 2e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
        ),
        first,
        gradients,
    )
    ours = run(level("muon", weight_decay=0.1, no_decay=[]), first, gradients)
    assert greatest_difference(ours, theirs, first) < 5e-2


def muon_by_numpy(first, gradients, rate, momentum, weight_decay):
    """Follow arXiv 2502.16982 alg. 1 and §2.2 in float64."""
    weights = {name: value.astype(np.float64) for name, value in first.items()}
    buffers = {name: np.zeros(value.shape) for name, value in first.items()}
    for gradient in gradients:
        for name, weight in weights.items():
            given = gradient[name].astype(np.float64)
            buffers[name] = momentum * buffers[name] + (1 - momentum) * given
            x = momentum * buffers[name] + (1 - momentum) * given
            x = x / np.linalg.norm(x)
            for _ in range(5):
                square = x @ x.T
                x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
            factor = 0.2 * math.sqrt(max(x.shape))
            weights[name] = weight - rate * (factor * x + weight_decay * weight)
        yield {name: value.copy() for name, value in weights.items()}


def test_muon_is_that_of_its_paper():
    shapes = {"layers.0.tall": (12, 5), "layers.0.wide": (4, 9)}
    first, gradients = series(100, shapes)
    theirs = muon_by_numpy(first, gradients, 2e-3, 0.95, 0.1)
    ours = run(level("muon", weight_decay=0.1, no_decay=[]), first, gradients)
    assert greatest_difference(ours, theirs, first) < 2e-5  # each step of five multiplies rounding


def lion_by_numpy(first, gradients, rate, beta1, beta2, weight_decay):
    """Follow arXiv 2302.06675 alg. 2."""
    weights = {name: value.astype(np.float64) for name, value in first.items()}
    means = {name: np.zeros(value.shape) for name, value in first.items()}
    for gradient in gradients:
        for name, weight in weights.items():
            sign = np.sign(beta1 * means[name] + (1 - beta1) * gradient[name])
            weights[name] = weight - rate * (sign + weight_decay * weight)
            means[name] = beta2 * means[name] + (1 - beta2) * gradient[name]
        yield {name: value.copy() for name, value in weights.items()}


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lion_is_that_of_its_paper(weight_decay):
    first, gradients = series(200, WIDE)
    theirs = lion_by_numpy(first, gradients, 5e-4, 0.9, 0.99, weight_decay)
    ours = run(level("lion", weight_decay=weight_decay, no_decay=[]), first, gradients)
    assert greatest_difference(ours, theirs, first) < 3e-6


# Laws


@EACH
def test_a_bowl_is_descended(name):
    goal, weights = 0.5, {key: mx.zeros(shape) for key, shape in SHAPES.items()}
    optimizer = make_optimizer(settings_of(name, learning_rate=0.1), 120)
    optimizer.init(weights)
    for _ in range(120):
        gradients = {key: value - goal for key, value in weights.items()}
        weights = optimizer.apply_gradients(gradients, weights)
    for key, value in weights.items():
        assert float(mx.abs(value - goal).mean()) < 0.1, key


def in_type(tree, dtype):
    return {key: mx.array(value).astype(dtype) for key, value in tree.items()}


@EACH
def test_weights_of_16_bits_are_trained_in_32_and_keep_their_type(name):
    first, gradients = series(5)
    half, whole = (make_optimizer(level(name), 5) for _ in range(2))
    weights = in_type(first, mx.bfloat16)
    wanted = in_type(weights, mx.float32)
    half.init(weights)
    for gradient in gradients:
        given = in_type(gradient, mx.bfloat16)
        weights = half.apply_gradients(given, weights)
        wanted = whole.apply_gradients(in_type(given, mx.float32), wanted)
        for key, value in weights.items():
            assert value.dtype == mx.bfloat16
            assert mx.array_equal(half.state[key]["float32"], wanted[key])
            distance = 2**-7 * mx.abs(wanted[key])
            assert mx.all(mx.abs(value.astype(mx.float32) - wanted[key]) <= distance)
    remembered = {
        key: value for key, value in named_arrays(half.state).items() if "float32" not in key
    }
    assert remembered.keys() == named_arrays(whole.state).keys()
    for key, value in named_arrays(whole.state).items():
        assert mx.array_equal(value, remembered[key])


@EACH
def test_without_a_copy_weights_of_16_bits_are_updated_in_32_and_rounded(name):
    first, gradients = series(3)
    half, whole = make_optimizer(level(name, float32_copy=False), 3), make_optimizer(level(name), 3)
    weights = in_type(first, mx.bfloat16)
    half.init(weights)
    for gradient in gradients:
        given = in_type(gradient, mx.bfloat16)
        wanted = whole.apply_gradients(in_type(given, mx.float32), in_type(weights, mx.float32))
        weights = half.apply_gradients(given, weights)
        for key, value in weights.items():
            assert value.dtype == mx.bfloat16
            distance = 2**-7 * mx.abs(wanted[key])
            assert mx.all(mx.abs(value.astype(mx.float32) - wanted[key]) <= distance)
    assert named_arrays(half.state).keys() == named_arrays(whole.state).keys()


@pytest.mark.parametrize("float32_copy", [True, False])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=["bfloat16", "float16"])
def test_updates_much_smaller_than_the_distance_of_16_bit_numbers_are_not_lost(dtype, float32_copy):
    """To the nearest number, 100 updates of 1e-5 would leave every weight at 1."""
    keys = {"learning_rate": 1e-5, "momentum": 0.0, "float32_copy": float32_copy}
    optimizer = make_optimizer(level("sgd", **keys), 100)
    weights = {"w": mx.ones((20_000,), dtype)}
    optimizer.init(weights)
    for _ in range(100):
        weights = optimizer.apply_gradients({"w": mx.ones((20_000,), dtype)}, weights)
    found = np.array(weights["w"].astype(mx.float32), np.float64)
    assert 1 - found.mean() == pytest.approx(1e-3, rel=0.1)
    assert len(set(found.tolist())) >= 2
    if float32_copy:
        exact = np.array(optimizer.state["w"]["float32"])
        np.testing.assert_allclose(exact, 1 - 1e-3, atol=1e-5)


def test_a_second_moment_of_a_16_bit_weight_fades():
    """In bfloat16, 0.999 is 1: what was once large would stay so for ever."""
    optimizer = make_optimizer(level("adamw"), 501)
    weights = {"w": mx.zeros((4,), mx.bfloat16)}
    for size in [100.0] + [0.0] * 500:
        weights = optimizer.apply_gradients({"w": mx.full((4,), size, mx.bfloat16)}, weights)
        mx.eval(weights, optimizer.state)
    left = 100.0**2 * 0.001 * 0.999**500
    assert optimizer.state["w"]["v"].tolist() == pytest.approx([left] * 4, rel=1e-3)


@pytest.mark.parametrize("num_steps", [1_000, 10_000, 100_000])
def test_the_last_updates_use_the_rates_of_the_schedule(num_steps):
    """Also after a resume: how many updates were made before is in the state."""
    settings = settings_of("sgd", learning_rate=0.1, momentum=0.0, warmup_fraction=0.0)
    for left in range(9, 0, -1):
        optimizer = make_optimizer(settings, num_steps)
        optimizer.state = {"step": mx.array(num_steps - left, mx.uint64)}
        moved = optimizer.apply_gradients({"w": mx.ones((1,))}, {"w": mx.zeros((1,))})
        wanted = 0.1 * math.sin(math.pi / 2 * left / num_steps) ** 2
        assert float(optimizer.learning_rate) == pytest.approx(wanted, rel=1e-7)
        assert float(moved["w"][0]) == pytest.approx(-wanted, rel=1e-7)


@EACH
def test_the_rate_that_is_reported_is_the_one_that_was_used(name):
    first, gradients = series(10)
    settings = settings_of(name, warmup_fraction=0.5)
    optimizer = make_optimizer(settings, 10)
    weights = {key: mx.array(value) for key, value in first.items()}
    optimizer.init(weights)
    for step, gradient in enumerate(gradients, start=1):
        given = {key: mx.array(value) for key, value in gradient.items()}
        weights = optimizer.apply_gradients(given, weights)
        if step <= 5:
            wanted = settings.learning_rate * step / 5
            assert float(optimizer.learning_rate) == pytest.approx(wanted)
    moved = next(run(settings, first, gradients[:1], num_steps=10))
    slow = level(name, learning_rate=settings.learning_rate / 5)
    still = next(run(slow, first, gradients[:1]))
    for key, value in moved.items():
        np.testing.assert_allclose(value, still[key], rtol=1e-5, atol=1e-7)


BYTES = {"adamw": 8, "adam": 8, "lion": 4, "sgd": 4}


@pytest.mark.parametrize(
    ("dtype", "float32_copy", "more"),
    [(mx.float32, True, 0), (mx.bfloat16, True, 4), (mx.bfloat16, False, 0)],
)
@pytest.mark.parametrize("name", BYTES)
def test_what_is_remembered_of_a_weight(name, dtype, float32_copy, more):
    first, _ = series(1)
    optimizer = make_optimizer(settings_of(name, float32_copy=float32_copy), 1)
    optimizer.init(in_type(first, dtype))
    held = sum(value.nbytes for value in named_arrays(optimizer.state).values())
    assert held == 12 + (BYTES[name] + more) * sum(value.size for value in first.values())


@EACH
def test_what_a_checkpoint_has_brought_is_not_started_again(name):
    first, gradients = series(4)
    weights = {key: mx.array(value) for key, value in first.items()}
    given = [{key: mx.array(value) for key, value in one.items()} for one in gradients]
    going_on, fresh = (make_optimizer(level(name), 4) for _ in range(2))
    weights = going_on.apply_gradients(given[0], weights)
    fresh.state = dict(going_on.state)
    fresh.init(weights)
    wanted = going_on.apply_gradients(given[1], weights)
    for key, value in fresh.apply_gradients(given[1], weights).items():
        assert mx.array_equal(value, wanted[key])


def test_sgd_without_momentum_remembers_nothing():
    optimizer = make_optimizer(settings_of("sgd", momentum=0.0), 1)
    optimizer.init({"w": mx.ones((4,))})
    assert named_arrays(optimizer.state).keys() == {"step", "learning_rate"}


def test_adafactor_remembers_rows_and_columns():
    optimizer = make_optimizer(settings_of("adafactor"), 1)
    optimizer.init({"w": mx.ones((6, 4))})
    kept = {key: value.shape for key, value in named_arrays(optimizer.state).items() if "." in key}
    assert kept == {"w.exp_avg_sq_row": (6,), "w.exp_avg_sq_col": (4,)}


def test_adafactor_clips_large_tensors_by_their_true_size():
    """After a gradient of 1, one of 10 makes every part of the update 1.3: it is shrunk to 1."""
    optimizer = make_optimizer(level("adafactor", learning_rate=1e-2, weight_decay=0.0), 2)
    weights = {"w": mx.zeros((3000, 1000))}
    for size in (1.0, 10.0):
        before = weights["w"]
        weights = optimizer.apply_gradients({"w": mx.full(before.shape, size)}, weights)
    np.testing.assert_allclose(np.array(before - weights["w"]), 1e-2, rtol=2e-6)


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_all_else():
    first, gradients = series(3)
    by_muon, by_adamw = run(level("muon"), first, gradients), run(level("adamw"), first, gradients)
    for one, other in zip(by_muon, by_adamw, strict=True):
        same = {key for key, value in one.items() if np.array_equal(value, other[key])}
        assert same == {"embed.weight", "layers.0.norm.weight"}


# Groups


@pytest.mark.parametrize(
    "name", [name for name, keys in OPTIMIZERS.items() if issubclass(keys, DecayingOptim)]
)
def test_norms_do_not_decay_and_other_weights_do(name):
    first, gradients = series(3)
    decayed = list(run(level(name, weight_decay=0.5), first, gradients))[-1]
    plain = list(run(level(name), first, gradients))[-1]
    same = {key for key, value in decayed.items() if np.array_equal(value, plain[key])}
    assert same == {"layers.0.norm.weight"}
    everywhere = list(run(level(name, weight_decay=0.5, no_decay=[]), first, gradients))[-1]
    norm = "layers.0.norm.weight"
    assert not np.array_equal(everywhere[norm], plain[norm])


def test_a_pattern_that_matches_nothing_is_refused_unless_it_is_usual():
    patterns = ("*norm*", "*bias", "layers.9.*", "embed", "layers.0.*")
    optimizer = make_optimizer(OptimSettings(1e-3, 0.1, 0.0, no_decay=patterns), 1)
    message = (
        r"(?s)optim.no_decay=.*layers\.9\.\*: matches no trained tensor.*embed: matches no trained"
        r".*such as embed.weight, layers.0.norm.weight, layers.0.proj.weight"
    )
    with pytest.raises(ConfigError, match=message):
        optimizer.init({key: mx.zeros(shape) for key, shape in SHAPES.items()})


# Every key

KEYS = {
    "adamw": {"beta1": 0.5, "beta2": 0.5, "eps": 0.1},
    "adam": {"beta1": 0.5, "beta2": 0.5, "eps": 0.1},
    "sgd": {"momentum": 0.5},
    "lion": {"beta1": 0.1, "beta2": 0.1},
    "muon": {"beta1": 0.5, "beta2": 0.5, "eps": 0.1, "momentum": 0.5},
    "adafactor": {"eps": 0.1},
}
COMMON = {
    "learning_rate": 1e-4,
    "schedule": "linear",
    "warmup_fraction": 0.5,
    "final_fraction": 0.5,
}


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [(name, *pair) for name in NAMES for pair in {**COMMON, **KEYS[name]}.items()],
)
def test_every_key_changes_the_updates(name, key, value):
    first, gradients = series(24)
    *_, usual = run(settings_of(name), first, gradients)
    *_, changed = run(settings_of(name, **{key: value}), first, gradients)
    moved = {
        tensor for tensor, found in changed.items() if not np.array_equal(found, usual[tensor])
    }
    matrix = {"layers.0.proj.weight"}
    if name == "muon" and key in ("beta1", "beta2", "eps"):
        assert moved == set(SHAPES) - matrix
    elif name == "muon" and key == "momentum":
        assert moved == matrix
    else:
        assert moved == set(SHAPES)


def test_the_share_that_decays_changes_the_updates():
    first, gradients = series(8)
    early = settings_of("adamw", schedule="wsd", decay_fraction=0.9)
    late = settings_of("adamw", schedule="wsd", decay_fraction=0.2)
    *_, one = run(early, first, gradients)
    *_, other = run(late, first, gradients)
    assert not np.array_equal(one["embed.weight"], other["embed.weight"])


def test_a_file_of_its_own_sets_the_name_and_the_keys_of_an_optimizer():
    for name in NAMES:
        assert settings_of(name).name == name


def test_every_optimizer_and_schedule_of_the_schema_can_be_made():
    assert RULES.keys() == OPTIMIZERS.keys()
    assert FALLS.keys() == SCHEDULES.keys()

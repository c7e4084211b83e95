"""Which BLAS MLX multiplies with, on machines that have much, little, or something broken.

A BLAS is chosen once per process, before MLX is imported, so most tests start one.
"""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import device
from pipeline.blas import choose
from pipeline.device import mx
from pipeline.errors import DeviceError
from tests.support.fake_blas import TELL, needs_numpy_blas, refusal, start, told

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there is a choice on Linux only"),
    pytest.mark.skipif(not device.is_cpu(), reason="MLX computes on a GPU"),
]


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 70)] * 3),
    turned=st.tuples(st.booleans(), st.booleans()),
    batch=st.sampled_from([(), (1,), (3,)]),
    seed=st.integers(0, 9),
)
def test_products_are_those_of_float64(shape, turned, batch, seed):
    m, k, n = shape
    generator = np.random.default_rng(seed)
    a = generator.standard_normal(batch + ((k, m) if turned[0] else (m, k)))
    b = generator.standard_normal(batch + ((n, k) if turned[1] else (k, n)))
    x, y = mx.array(a.astype(np.float32)), mx.array(b.astype(np.float32))
    x, y = x.swapaxes(-1, -2) if turned[0] else x, y.swapaxes(-1, -2) if turned[1] else y
    a, b = a.swapaxes(-1, -2) if turned[0] else a, b.swapaxes(-1, -2) if turned[1] else b
    np.testing.assert_allclose(np.array(x @ y), a @ b, rtol=1e-4, atol=1e-4)


def test_float64_is_routed_too():
    a, b = np.random.default_rng(0).standard_normal((2, 40, 40))
    with mx.stream(mx.cpu):
        product = mx.array(a, dtype=mx.float64) @ mx.array(b, dtype=mx.float64)
        np.testing.assert_allclose(np.array(product), a @ b, rtol=1e-12)


@needs_numpy_blas
def test_numpys_blas_gives_numpys_bits(cache):
    code = (
        "from pipeline.device import mx\n"
        "import numpy as np\n"
        "a, b = np.random.default_rng(0).standard_normal((2, 300, 300)).astype(np.float32)\n"
        "x, y = mx.array(a), mx.array(b)\n"
        "assert np.array_equal(x @ y, a @ b) and np.array_equal(x @ y.T, a @ b.T)\n"
    )
    numpys = told(start(cache, code + TELL, TIDEWHEEL_BLAS="numpy"))
    assert numpys.path in choose.numpy_libraries()
    assert numpys[2:] == (2, True, "")


@needs_numpy_blas
def test_the_shim_is_built_once(cache):
    at_once = [start(cache, TIDEWHEEL_BLAS="numpy") for _ in range(3)]
    assert {told(process)[2:] for process in at_once} == {(2, True, "")}
    [shim_file] = cache.rglob("shim.so")
    assert [path.name for path in shim_file.parent.iterdir()] == ["shim.so"]
    built = shim_file.stat().st_mtime_ns
    assert told(start(cache, TIDEWHEEL_BLAS="numpy", PATH=""))[2:] == (2, True, "")
    assert shim_file.stat().st_mtime_ns == built
    shim_file.write_bytes(shim_file.read_bytes()[:100])
    damaged = shim_file.stat().st_ino
    assert told(start(cache, TIDEWHEEL_BLAS="numpy"))[2:] == (2, True, "")
    assert shim_file.stat().st_ino != damaged  # replaced: nobody ever loads half a file


@needs_numpy_blas
def test_without_a_cache_the_shim_is_built_elsewhere(cache):
    cache.write_text("a file where a folder should be")
    numpys = told(start(cache, TIDEWHEEL_BLAS="numpy"))
    assert numpys.is_bound
    assert "each process builds the BLAS shim again" in numpys.warnings


@needs_numpy_blas
def test_mlxs_own_blas_is_used_aloud_or_not_at_all(cache):
    said = refusal(start(cache, TIDEWHEEL_BLAS="numpy", PATH=""))
    assert "TIDEWHEEL_BLAS=numpy cannot be used: NumPy's BLAS needs a shim" in said
    own = told(start(cache, PATH=""))
    if not own.path:  # on a machine without a BLAS of its own
        assert (own.name, own.num_threads) == ("MLX's own", 1)
        assert "Matrix products will be slow: NumPy's BLAS needs a shim" in own.warnings
        assert "Install a BLAS (Debian: libopenblas0) or a C compiler" in own.warnings


def test_none_takes_mlx_as_it_is_without_a_word(cache):
    own = told(start(cache, TIDEWHEEL_BLAS="none"))
    assert own == ("", "MLX's own", 1, False, "")


def test_a_named_library_is_used(cache, make_fake):
    fake = str(make_fake())
    named = told(start(cache, TIDEWHEEL_BLAS=fake))
    assert named == (fake, "Fake BLAS 1.2.3", 2, True, "")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ({"SINGLE": 2}, "multiplies wrongly, or takes sizes of 64 bits"),
        ({"DOUBLE": 2}, "multiplies wrongly, or takes sizes of 64 bits"),
        ({"SIZE": "int64_t"}, "multiplies wrongly, or takes sizes of 64 bits"),
        ({"DGEMM": "no_dgemm"}, "has no cblas_sgemm and cblas_dgemm"),
    ],
)
def test_a_named_library_that_is_unfit_is_refused(make_fake, monkeypatch, kind, reason):
    fake = make_fake(**kind)
    monkeypatch.setenv("TIDEWHEEL_BLAS", str(fake))
    with pytest.raises(DeviceError, match=f"TIDEWHEEL_BLAS={fake} cannot be used: {fake} {reason}"):
        choose.route_blas()


def test_a_named_library_that_cannot_be_loaded_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TIDEWHEEL_BLAS", "/no/library.so")
    with pytest.raises(DeviceError, match=r"/no/library.so: cannot open(.|\n)*=none chooses MLX's"):
        choose.route_blas()
    (tmp_path / "libbroken.so").write_text("no library")
    monkeypatch.setenv("TIDEWHEEL_BLAS", str(tmp_path / "libbroken.so"))
    with pytest.raises(DeviceError, match=r"libbroken\.so: file too short"):
        choose.route_blas()


@needs_numpy_blas
def test_a_slow_system_library_is_the_last_resort(cache, make_fake):
    fake = make_fake("libopenblas.so.0")
    variables = {"LD_LIBRARY_PATH": str(fake.parent)}
    assert told(start(cache, **variables)).path in choose.numpy_libraries()
    serial = ("libopenblas.so.0", "Fake BLAS 1.2.3", 2, True, "")
    assert told(start(cache.with_name("empty"), PATH="", **variables)) == serial
    assert told(start(cache, TIDEWHEEL_BLAS="system", **variables)) == serial
    one_thread = told(start(cache, OPENBLAS_NUM_THREADS="1", **variables))
    assert one_thread.path == "libopenblas.so.0"


def test_a_preloaded_library_is_kept(cache, make_fake):
    fake, other = str(make_fake()), str(make_fake())
    assert told(start(cache, LD_PRELOAD=fake)) == ("preloaded", "Fake BLAS 1.2.3", 2, True, "")
    said = refusal(start(cache, LD_PRELOAD=fake, TIDEWHEEL_BLAS=other))
    assert f"{other} comes after a cblas_sgemm that was loaded before" in said


@needs_numpy_blas
def test_too_late_is_said_aloud(cache):
    late = told(start(cache, "import mlx.core\n" + TELL))
    assert late.path == ""
    assert "mlx was imported before pipeline.device" in late.warnings


def test_a_library_that_mlx_does_not_call_is_not_claimed(cache, make_fake):
    late = f"import ctypes; ctypes.CDLL({str(make_fake())!r}, ctypes.RTLD_GLOBAL)"
    code = f"from pipeline import device\n{late}\n" + TELL
    assert told(start(cache, code, TIDEWHEEL_BLAS="none")).is_bound is False


def test_what_mlx_does_not_call_becomes_mlxs_own(monkeypatch, caplog):
    monkeypatch.setattr(choose, "is_bound", lambda: False)
    assert choose.confirm_blas(choose.Blas("Fast BLAS", "/lib/fast.so", 8)).path == ""
    assert "MLX does not call /lib/fast.so" in caplog.text


@needs_numpy_blas
def test_threads_hold_though_numpy_was_loaded_before(cache):
    code = "import numpy, os; os.environ['OPENBLAS_NUM_THREADS'] = '1'\n" + TELL
    assert told(start(cache, code, TIDEWHEEL_BLAS="numpy")).num_threads == 1


@pytest.mark.parametrize(
    ("variables", "num_threads"),
    [
        ({}, 6),
        ({"OPENBLAS_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "5"}, 5),
    ],
)
def test_threads_are_pinned(monkeypatch, variables, num_threads):
    environment = dict(variables)
    monkeypatch.setattr(choose.os, "environ", environment)
    monkeypatch.setattr(choose, "allowed_cores", lambda: 6)
    assert choose.pin_threads() == num_threads
    assert environment["OPENBLAS_NUM_THREADS"] == str(num_threads)
    assert environment["MKL_NUM_THREADS"] == str(num_threads)


@pytest.mark.parametrize("value", ["0", "many", "-2"])
def test_threads_that_are_no_number_are_refused(monkeypatch, value):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", value)
    with pytest.raises(
        DeviceError, match=f"OPENBLAS_NUM_THREADS={value} is not a number of threads"
    ):
        choose.pin_threads()


def test_nothing_is_routed_on_a_mac(monkeypatch):
    monkeypatch.setattr(choose.sys, "platform", "darwin")
    monkeypatch.delenv("TIDEWHEEL_BLAS", raising=False)
    assert choose.route_blas() == choose.Blas("Accelerate")
    monkeypatch.setenv("TIDEWHEEL_BLAS", "system")
    with pytest.raises(
        DeviceError, match="TIDEWHEEL_BLAS=system: only on Linux can a BLAS be chosen"
    ):
        choose.route_blas()


def test_nothing_is_routed_where_mlx_has_a_gpu(monkeypatch, caplog):
    monkeypatch.delenv("TIDEWHEEL_BLAS", raising=False)
    monkeypatch.setattr(choose.ctypes, "CDLL", lambda name: name)

    class Installed:
        name = "mlx-cuda-13"

    monkeypatch.setattr(choose.importlib.metadata, "distributions", lambda: [Installed()])
    routed = choose.route_blas()
    assert routed.path == ""
    assert choose.confirm_blas(routed) == routed  # only asked where MLX fell back to the CPU
    assert "MLX found no GPU though it is built for CUDA" in caplog.text

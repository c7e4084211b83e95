"""The device: what MLX computes with and holds, and what importing it must not do."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import device
from pipeline.device import mx
from pipeline.errors import DeviceError
from pipeline.external import offline

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20


def run(code, **variables):
    """Run code in a new process, with the environment changed, and return what it printed."""
    ours = {*offline.OFFLINE, *offline.QUIET}  # set since this process has imported the device
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_fingerprint_is_the_same_in_every_process():
    code = "import json; from pipeline import device; print(json.dumps(device.{}()))"
    here = {"OPENBLAS_NUM_THREADS": "1"}
    first, second = (json.loads(run(code.format("numerics_fingerprint"), **here)) for _ in "12")
    assert first == second
    assert set(first) >= {"device", "machine", "mlx", "blas", "blas_threads", "product"}
    assert first["blas"] in json.loads(run(code.format("describe_device"), **here))


def test_fingerprint_tells_another_blas():
    code = (
        "import json; from pipeline import device; print(json.dumps(device.numerics_fingerprint()))"
    )
    own = json.loads(run(code, TIDEWHEEL_BLAS="none"))
    ours = device.numerics_fingerprint()
    if not device.BLAS.path:
        pytest.skip("MLX's own BLAS is in use")
    differing = {key for key in own if own[key] != ours[key]}
    assert {"blas", "product"} <= differing <= {"blas", "blas_threads", "product"}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_slow_type_is_warned_about_with_the_remedy(monkeypatch, caplog, dtype):
    monkeypatch.setattr(device, "is_cpu", lambda: True)
    device.warn_of_slow_type(dtype)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(f"model.dtype={dtype}: a CPU computes in 16 bits 30 to")
    assert record.getMessage().endswith("\nSet model.dtype=float32.")


@pytest.mark.parametrize(
    ("dtype", "is_cpu"), [("float32", True), ("auto", True), ("bfloat16", False)]
)
def test_other_types_are_not_warned_about(monkeypatch, caplog, dtype, is_cpu):
    monkeypatch.setattr(device, "is_cpu", lambda: is_cpu)
    device.warn_of_slow_type(dtype)
    assert not caplog.records


def test_description_is_one_line():
    description = device.describe_device()
    assert "\n" not in description
    assert device.MLX_VERSION in description


def test_dtype_and_attention_follow_the_device():
    assert device.is_cpu() == (mx.default_device() == mx.Device(mx.cpu))
    assert device.compute_dtype() == (mx.float32 if device.is_cpu() else mx.bfloat16)
    assert device.has_fused_attention() != device.is_cpu()


def test_a_wrong_product_stops_everything(monkeypatch):
    right = device.probe_product()
    assert right.shape == (128, 128)
    monkeypatch.setattr(device.np, "einsum", lambda *_: right[:8] + 0.5)
    with pytest.raises(DeviceError, match=r"a matrix product is wrong by 0\.5\b"):
        device.probe_product()


def test_mlx_memory_follows_what_is_held():
    mx.clear_cache()
    before = device.mlx_memory()
    held = mx.zeros((4 * MIB,), dtype=mx.float32)
    mx.eval(held)
    assert device.mlx_memory().active_bytes - before.active_bytes == pytest.approx(
        16 * MIB, rel=0.01
    )
    del held
    assert device.mlx_memory().active_bytes == pytest.approx(before.active_bytes, abs=MIB)
    assert device.mlx_memory().peak_bytes >= before.active_bytes + 16 * MIB
    assert device.mlx_memory().cache_bytes >= 16 * MIB
    mx.clear_cache()
    assert device.mlx_memory().cache_bytes == 0
    device.reset_peak_memory()
    assert device.mlx_memory().peak_bytes < before.active_bytes + 16 * MIB


@pytest.mark.skipif(not device.BLAS.path, reason="no fast BLAS was found")
def test_products_are_several_times_faster_than_mlxs_own():
    code = "from pipeline import device; print(device.matmul_flops_per_second(256, 0.05))"
    one_thread = {"OPENBLAS_NUM_THREADS": "1"}  # two would wait for each other on a busy machine
    assert float(run(code, **one_thread)) > 3 * float(run(code, TIDEWHEEL_BLAS="none"))


def test_mlx_lm_cannot_lower_the_limit_on_open_files():
    code = """
import resource
from pipeline.device import keep_open_file_limit
before = (1000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
resource.setrlimit(resource.RLIMIT_NOFILE, before)  # not what mlx-lm would set
setter = resource.setrlimit
with keep_open_file_limit():
    import mlx_lm.utils
assert resource.setrlimit is setter
print(before == resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    assert run(code).split() == ["True"]


def test_only_the_limit_on_open_files_is_kept():
    kinds = (resource.RLIMIT_NOFILE, resource.RLIMIT_CPU)
    files, seconds = map(resource.getrlimit, kinds)
    with device.keep_open_file_limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (8, files[1]))
        resource.setrlimit(resource.RLIMIT_CPU, (10**6, seconds[1]))
    assert [*map(resource.getrlimit, kinds)] == [files, (10**6, seconds[1])]
    resource.setrlimit(resource.RLIMIT_CPU, seconds)


def fail_while_limits_are_kept():
    with device.keep_open_file_limit():
        raise ImportError


def test_limits_can_be_set_again_after_a_failed_import():
    setter = resource.setrlimit
    with pytest.raises(ImportError):
        fail_while_limits_are_kept()
    assert resource.setrlimit is setter

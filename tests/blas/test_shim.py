"""Build `shim.c` once with the system's C compiler, and load it."""

import sys

import pytest

from pipeline import device
from pipeline.blas import shim

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there is a choice on Linux only"),
    pytest.mark.skipif(not device.is_cpu(), reason="MLX computes on a GPU"),
]


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"PATH": ""}, r"no C compiler \(cc, gcc, clang\)"),
        ({"CC": "false"}, "false -O2 -shared .* failed"),
        ({"CC": "/no/compiler"}, "the C compiler does not start: .*/no/compiler"),
        ({"CC": "true"}, "cannot be loaded: .*No such file"),
    ],
)
def test_a_shim_that_cannot_be_built_says_why(cache, monkeypatch, variables, reason):
    monkeypatch.delenv("CC", raising=False)
    for name, value in {"XDG_CACHE_HOME": str(cache), **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(shim.ShimError, match=reason):
        shim.load_shim()

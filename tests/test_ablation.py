"""The distrust modes on the built-in world, at full size: what the weights do and do not do."""

import pytest

from tests.support import ablation

SEED = 7


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return ablation.run(tmp_path_factory.mktemp("ablation"), SEED)


@pytest.mark.exhaustive
def test_what_each_mode_does(found):
    print(ablation.table({str(SEED): found}))
    modes, hashes = found["modes"], found["hashes"]
    assert hashes["additive"] == hashes["none"]
    assert modes["additive"] == modes["none"]
    for mode in ("weighted", "sampling"):
        moved = modes[mode]["contest"]["difference"]
        assert moved["value"] >= 0.25
        assert moved["low"] > 0
        assert modes[mode]["perplexity"] <= 1.05 * modes["none"]["perplexity"]
    for kind in ablation.CONTROLS:
        moved = modes["weighted"][f"{kind} by source"]["difference"]
        assert moved["low"] <= 0 <= moved["high"]
        assert abs(modes["weighted"][kind]["difference"]["value"]) < 0.1  # by order of quoting
    for mode in ("base", "none"):  # a guess near even odds, which small shifts turn many times
        assert abs(modes[mode]["contest"]["share"] - 0.5) < 0.1

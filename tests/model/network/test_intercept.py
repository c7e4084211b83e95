"""Interceptions: they see every call, may be stacked, and leave nothing behind."""

import gc
import weakref

import pytest

from pipeline.device import mx, nn
from pipeline.model.network.intercept import intercept, intercepted, outputs_noted, reads_noted

ONES = mx.ones((1, 2))


class Doubled(nn.Module):
    def __call__(self, value, times=2):
        return value * times


def test_an_answer_sees_the_call_and_may_change_its_first_argument():
    module, seen = Doubled(), []

    def answer(call):
        seen.append((call.module is module, call.kind, call.kwargs))
        return call.run() + call.run(10 * call.args[0])

    with intercepted([module], answer):
        assert module(ONES, times=3).tolist() == [[33.0, 33.0]]
    assert seen == [(True, Doubled, {"times": 3})]
    assert module(ONES).tolist() == [[2.0, 2.0]]


def test_interceptions_of_one_module_are_stacked_and_undone():
    module, other = Doubled(), Doubled()
    undo = intercept(module, lambda call: call.run() + 1)
    with outputs_noted([module]) as noted, intercepted([module], lambda call: 5 * call.run()):
        assert module(ONES).tolist() == [[15.0, 15.0]]
    assert [output.tolist() for output in noted] == [[[3.0, 3.0]]]
    assert module(ONES).tolist() == [[3.0, 3.0]]
    assert other(ONES).tolist() == [[2.0, 2.0]]
    undo()
    assert type(module) is Doubled
    assert not [name for name in vars(module) if "intercepted" in name]


def test_reads_are_noted_by_name_until_the_end():
    modules = {name: nn.Linear(2, 2) for name in ("read", "unread")}
    with reads_noted(modules) as names:
        modules["read"](ONES)
    assert names == {"read"}
    modules["unread"](ONES)
    assert names == {"read"}
    assert {type(module) for module in modules.values()} == {nn.Linear}


def test_a_module_is_its_own_again_after_an_error():
    module = Doubled()
    with pytest.raises(KeyError), intercepted([module], lambda call: {}["no"]):
        module(ONES)
    assert type(module) is Doubled


def test_what_answered_is_not_kept():
    class Answer:
        def __call__(self, call):
            return call.run()

    answer, module = Answer(), Doubled()
    gone = weakref.ref(answer)
    with intercepted([module], answer):
        module(ONES)
    del answer
    gc.collect()
    assert gone() is None

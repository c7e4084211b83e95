"""Calls and reads of a model's modules, answered by functions of ours.

mlx-lm's models are used as they come, so what has to happen in the middle of a call is put there
from outside: a module object changes to a class derived from its own. Other objects of that class
are not touched, and all settings that a model reads from the module stay.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.device import nn


@dataclass
class Call:
    """One call of a module.

    Attributes:
        module: what was called.
        kind: the module's own class.
        args: with these arguments,
        kwargs: and these.
    """

    module: nn.Module
    kind: type[nn.Module]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, *first: Any) -> Any:  # noqa: ANN401
        """Run the module's own code, with others in place of its first arguments where given."""
        return self.kind.__call__(self.module, *first, *self.args[len(first) :], **self.kwargs)


Answer = Callable[[Call], Any]
Read = Callable[[], None]


def intercept(module: nn.Module, answer: Answer) -> Callable[[], None]:
    """Route the calls of a module through a function from now on.

    Returns:
        A function that undoes it; the last interception of a module is undone first.
    """
    return derive(module, answering(type(module)), answer)


@contextlib.contextmanager
def intercepted(modules: Iterable[nn.Module], answer: Answer) -> Iterator[None]:
    """Route the calls of some modules through a function until the end of the `with`."""
    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.callback(intercept(module, answer))
        yield


@contextlib.contextmanager
def outputs_noted(modules: Iterable[nn.Module]) -> Iterator[list[Any]]:
    """Note the outputs of some modules until the end of the `with`, in the order of their calls."""
    outputs: list[Any] = []

    def note(call: Call) -> Any:  # noqa: ANN401
        output = call.run()
        outputs.append(output)
        return output

    with intercepted(modules, note):
        yield outputs


@contextlib.contextmanager
def reads_noted(modules: dict[str, nn.Module]) -> Iterator[set[str]]:
    """Note the names of the modules of which something is read until the end of the `with`."""
    read = set[str]()
    with contextlib.ExitStack() as stack:
        for name, module in modules.items():
            note = functools.partial(read.add, name)
            stack.callback(derive(module, noticing(type(module)), note))
        yield read


def derive(
    module: nn.Module, derived: type[nn.Module], function: Answer | Read
) -> Callable[[], None]:
    """Change a module to a derived class, which calls a function that the module holds.

    Returns:
        A function that undoes it.
    """
    kind = type(module)
    vars(module)[place(kind)] = function
    module.__class__ = derived

    def undo() -> None:
        module.__class__ = kind
        del vars(module)[place(kind)]

    return undo


def place(kind: type[nn.Module]) -> str:
    """Name the attribute that holds the function; one for each derivation of a module."""
    return f"_intercepted_{len(kind.__mro__)}"


# Derived classes live on, so they refer to no arrays: what they call is held by the module.


@functools.cache
def answering(kind: type[nn.Module]) -> type[nn.Module]:
    """Derive a class whose calls are answered by a function."""
    name = place(kind)

    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return vars(self)[name](Call(self, kind, args, kwargs))

    return type(kind.__name__, (kind,), {"__call__": run})


@functools.cache
def noticing(kind: type[nn.Module]) -> type[nn.Module]:
    """Derive a class that calls a function before something of a module is read."""
    name = place(kind)

    def attribute(self: nn.Module, key: str) -> Any:  # noqa: ANN401
        vars(self)[name]()
        return kind.__getattr__(self, key)

    def item(self: nn.Module, key: str) -> Any:  # noqa: ANN401
        vars(self)[name]()
        return kind.__getitem__(self, key)

    return type(kind.__name__, (kind,), {"__getattr__": attribute, "__getitem__": item})

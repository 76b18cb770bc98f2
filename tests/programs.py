"""What a program consists of, for tests that count."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from jax.extend import core

Counting = Callable[[], AbstractContextManager[list[str]]]
"""Of the fixture `count_compilations`."""

MOVES = {
    "broadcast_in_dim", "concatenate", "copy", "dynamic_slice", "expand_dims", "pjit", "jit",
    "reshape", "slice", "split", "squeeze", "stack", "transpose",
}  # fmt: skip
"""Primitives that put numbers elsewhere and compute nothing."""


def equations(jaxpr: Any) -> Iterator[Any]:
    """All of a program, the bodies of loops and calls too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def work(jaxpr: Any, size: int) -> list[str]:
    """Names of the primitives that compute with arrays of at least so many numbers."""
    found = []
    for equation in equations(jaxpr):
        sizes = [getattr(operand.aval, "size", 0) for operand in equation.invars]
        if str(equation.primitive) not in MOVES and max(sizes, default=0) >= size:
            found.append(str(equation.primitive))
    return found

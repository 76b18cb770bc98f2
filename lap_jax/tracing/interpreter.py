"""Reading a jaxpr, equation by equation, into whatever it calls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal


class Reader(NamedTuple):
    """What to make of the parts of a program.

    Attributes:
      literal: value of a constant.
      equation: ``(equation, values in) -> values out``.
      branches: ``(equation, values in, run) -> values out`` of `cond`; ``run(branch, values)``
        reads a branch.
      loop: ``(equation, values in, run) -> values out`` of `scan`; ``run(values)`` reads its body.
      calls: source lines of the calls that are being read, outermost first.
    """

    literal: Callable[[Any], Any]
    equation: Callable[[JaxprEqn, list[Any]], Sequence[Any]]
    branches: Callable[[JaxprEqn, list[Any], Callable[..., list[Any]]], Sequence[Any]]
    loop: Callable[[JaxprEqn, list[Any], Callable[..., list[Any]]], Sequence[Any]]
    calls: list[str]


def read(reader: Reader, closed: ClosedJaxpr | Jaxpr, values: Sequence[Any]) -> list[Any]:
    """Read a program on given values; calls (jit, remat, custom derivatives) are gone into."""
    jaxpr, constants = _open(closed)
    known: dict[Any, Any] = dict(zip(jaxpr.invars, values, strict=True))
    known |= zip(jaxpr.constvars, map(reader.literal, constants), strict=True)

    def value(atom: Any) -> Any:
        return reader.literal(atom.val) if isinstance(atom, Literal) else known[atom]

    depth = len(reader.calls)
    for equation in jaxpr.eqns:
        del reader.calls[depth:]
        arguments = [value(atom) for atom in equation.invars]
        if equation.primitive.name == "scan":
            body = equation.params["jaxpr"]
            results = reader.loop(
                equation, arguments, lambda new, body=body: read(reader, body, new)
            )
        elif equation.primitive.name == "cond":
            results = reader.branches(equation, arguments, functools.partial(read, reader))
        elif (inner := called(equation)) is not None:
            reader.calls.append(where(equation))
            results = read(reader, inner, arguments)
        else:
            results = reader.equation(equation, arguments)
        known |= zip(equation.outvars, results, strict=True)
    return [value(atom) for atom in jaxpr.outvars]


def called(equation: JaxprEqn) -> ClosedJaxpr | Jaxpr | None:
    """Return the program that an equation calls as it is, whatever the primitive's name."""
    if equation.primitive.name in ("while", "shard_map", "pallas_call", "custom_partitioning"):
        return None
    found = [value for value in equation.params.values() if isinstance(value, (ClosedJaxpr, Jaxpr))]
    for inner in found:
        jaxpr, _ = _open(inner)
        same = [var.aval.shape for var in jaxpr.outvars] == [  # type: ignore[attr-defined]
            var.aval.shape  # type: ignore[attr-defined]
            for var in equation.outvars
        ]
        if len(jaxpr.invars) == len(equation.invars) and same:
            return inner
    return None


class Loop(NamedTuple):
    """What a `scan` is made of: its body, and how many values are constants and carried."""

    body: Jaxpr
    consts: int
    carry: int


def loop_of(equation: JaxprEqn) -> Loop:
    """Return the parts of a `scan`, told by shapes: its parameters differ between versions of JAX.

    What a loop goes over, or puts out at each step, has one axis more than the body sees.
    """
    body, _ = _open(equation.params["jaxpr"])

    def stacked(outer: Sequence[Any], inner: Sequence[Any]) -> int:
        pairs = zip(outer, inner, strict=True)
        return sum(len(a.aval.shape) > len(b.aval.shape) for a, b in pairs)

    carry = len(body.outvars) - stacked(equation.outvars, body.outvars)
    over = stacked(equation.invars, body.invars)
    return Loop(body, len(body.invars) - carry - over, carry)


def where(equation: JaxprEqn) -> str:
    """Return the source line of an equation."""
    return str(source_info_util.summarize(equation.source_info))


def _open(closed: ClosedJaxpr | Jaxpr) -> tuple[Jaxpr, Sequence[Any]]:
    if isinstance(closed, ClosedJaxpr):
        return closed.jaxpr, closed.consts
    return closed, ()

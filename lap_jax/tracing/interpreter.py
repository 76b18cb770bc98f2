"""Reading a jaxpr, equation by equation, into whatever it calls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

Program: TypeAlias = "ClosedJaxpr | Jaxpr"
Run: TypeAlias = Callable[[list[Any]], list[Any]]
"""Reads a program on values."""


class Interpreter(NamedTuple):
    """What to make of the parts of a program.

    Attributes:
      literal: value of a constant.
      equation: ``(equation, values in) -> values out``.
      call: ``(equation, values in, run) -> values out`` of what calls a program as it is (jit,
        remat, custom derivatives); ``run(values)`` reads that.
      branches: ``(equation, values in, runs) -> values out`` of `cond`; one ``run`` a branch.
      loop: ``(equation, values in, run) -> values out`` of `scan`; ``run(values)`` reads its body.
      calls: source lines of the calls that are being read, outermost first.
      counted: ``(equation, values in) -> equation`` of `while`: the `scan` of as many steps, which
        takes the last of the values, or as it is.
    """

    literal: Callable[[Any], Any]
    equation: Callable[[JaxprEqn, list[Any]], Sequence[Any]]
    call: Callable[[JaxprEqn, list[Any], Run], Sequence[Any]]
    branches: Callable[[JaxprEqn, list[Any], Sequence[Run]], Sequence[Any]]
    loop: Callable[[JaxprEqn, list[Any], Run], Sequence[Any]]
    calls: list[str]
    counted: Callable[[JaxprEqn, list[Any]], JaxprEqn] = lambda equation, _: equation


def read(interpreter: Interpreter, closed: Program, values: Sequence[Any]) -> list[Any]:
    """Read a program on given values."""
    from jax.extend.core import Literal

    jaxpr, constants = _open(closed)
    known: dict[Any, Any] = dict(zip(jaxpr.invars, values, strict=True))
    known |= zip(jaxpr.constvars, map(interpreter.literal, constants), strict=True)

    def value(atom: Any) -> Any:
        return interpreter.literal(atom.val) if isinstance(atom, Literal) else known[atom]

    depth = len(interpreter.calls)
    for equation in jaxpr.eqns:
        del interpreter.calls[depth:]
        arguments = [value(atom) for atom in equation.invars]
        if equation.primitive.name == "while":
            equation = interpreter.counted(equation, arguments)
            arguments = arguments[len(arguments) - len(equation.invars) :]
        run = [functools.partial(read, interpreter, inner) for inner in programs(equation)]
        match equation.primitive.name:
            case "scan":
                results = interpreter.loop(equation, arguments, run[0])
            case "cond":
                results = interpreter.branches(equation, arguments, run)
            case _ if run:
                interpreter.calls.append(where(equation))
                results = interpreter.call(equation, arguments, run[0])
            case _:
                results = interpreter.equation(equation, arguments)
        known |= zip(equation.outvars, results, strict=True)
    return [value(atom) for atom in jaxpr.outvars]


def programs(equation: JaxprEqn) -> Sequence[Program]:
    """Return the programs that are read in an equation: branches, a loop's body, or what it calls.

    A call is told by its shapes, whatever the primitive's name.
    """
    from jax.extend.core import ClosedJaxpr, Jaxpr

    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return [params["jaxpr"]]
    if name == "cond":
        return list(params["branches"])
    if name in ("while", "shard_map", "pallas_call", "custom_partitioning"):
        return []
    found = [value for value in params.values() if isinstance(value, (ClosedJaxpr, Jaxpr))]
    for inner in found:
        jaxpr, _ = _open(inner)
        if len(jaxpr.invars) == len(equation.invars) and out_shapes(jaxpr) == out_shapes(equation):
            return [inner]
    return []


def evaluate(equation: JaxprEqn, arguments: Sequence[Any]) -> list[Any]:
    """Compute an equation on arrays as JAX does it, with its own derivatives."""
    params = equation.primitive.get_bind_params(equation.params)
    # Functions that it calls: parts of the parameters, or before them in some versions of JAX.
    functions, params = ((), params) if isinstance(params, dict) else params
    with equation.ctx.manager:
        found = equation.primitive.bind(*functions, *arguments, **params)
    return list(found) if equation.primitive.multiple_results else [found]


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
    from jax.extend import source_info_util

    return str(source_info_util.summarize(equation.source_info))


def out_shapes(part: JaxprEqn | Jaxpr) -> list[tuple[int, ...]]:
    """Return the shapes of what an equation or a program gives."""
    return [tuple(var.aval.shape) for var in part.outvars]  # type: ignore[attr-defined]


def out_shape(equation: JaxprEqn) -> tuple[int, ...]:
    """Return the shape of the first thing that an equation gives."""
    return out_shapes(equation)[0]


def _open(closed: Program) -> tuple[Jaxpr, Sequence[Any]]:
    from jax.extend.core import ClosedJaxpr

    if isinstance(closed, ClosedJaxpr):
        return closed.jaxpr, closed.consts
    return closed, ()

"""Walking through a model's jaxpr on values: what an oracle needs to know, and nothing of a graph.

Calls are entered and loops unrolled. Known of every value is whether it depends on the model's
inputs, whether on its parameters, and which parameter each of its elements is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

Program: TypeAlias = ClosedJaxpr | Jaxpr

MOVES = frozenset((
    "broadcast_in_dim", "concatenate", "dynamic_slice", "expand_dims", "gather", "pad", "reshape",
    "rev", "slice", "split", "squeeze", "transpose",
))  # fmt: skip
CONTRACTIONS = frozenset(("conv_general_dilated", "dot_general"))


class Known(NamedTuple):
    """A value on the way through a program.

    Attributes:
      value: an array.
      active: whether it depends on the inputs.
      weights: whether it depends on parameters.
      place: the number of the parameter that each element is, of all that the model has; -1 for
        none; None where that is not to be told.
    """

    value: Any
    active: bool = False
    weights: bool = False
    place: np.ndarray | None = None


Visit: TypeAlias = Callable[[JaxprEqn, list[Known]], Sequence[Any]]
"""Gives the values of an equation that depends on the inputs."""


def walk(program: Program, arguments: Sequence[Known], visit: Visit) -> list[Known]:
    """Go through a program, equation by equation.

    Args:
      program: a jaxpr.
      arguments: what goes in.
      visit: is asked for the values of each equation that depends on the inputs.
    """
    jaxpr, constants = _opened(program)
    known = dict(zip(jaxpr.invars, arguments, strict=True))
    known |= zip(jaxpr.constvars, map(Known, constants), strict=True)

    def of(atom: Any) -> Known:
        return Known(atom.val) if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        known |= zip(
            equation.outvars, _results(equation, list(map(of, equation.invars)), visit), strict=True
        )
    return list(map(of, jaxpr.outvars))


def evaluate(equation: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Compute an equation as JAX does."""
    bound: Any = equation.primitive.get_bind_params(equation.params)
    # In some versions of JAX what the equation calls comes before the other parameters.
    calls, params = bound if isinstance(bound, tuple) else ((), bound)
    results = equation.primitive.bind(*calls, *values, **params)
    return list(results) if equation.primitive.multiple_results else [results]


def _results(equation: JaxprEqn, given: list[Known], visit: Visit) -> list[Known]:
    if equation.primitive.name == "scan":
        return _unrolled(equation, given, visit)
    if equation.primitive.name == "cond" and not given[0].active:
        return walk(equation.params["branches"][int(given[0].value)], given[1:], visit)
    inner = _called(equation)
    if inner is not None:
        return walk(inner, given, visit)
    active, weights = any(each.active for each in given), any(each.weights for each in given)
    if active:
        found = visit(equation, given)
        return [Known(value, True, weights) for value in found]
    with jax.ensure_compile_time_eval():
        found = evaluate(equation, [each.value for each in given])
    return [
        Known(value, False, weights, place)
        for value, place in zip(found, _places(equation, given, found), strict=True)
    ]


def _called(equation: JaxprEqn) -> Program | None:
    """Return the program that an equation calls once, on its own operands."""
    if equation.primitive.name in ("while", "cond"):
        return None
    for value in equation.params.values():
        if isinstance(value, (ClosedJaxpr, Jaxpr)):
            jaxpr, _ = _opened(value)
            ends = ((jaxpr.invars, equation.invars), (jaxpr.outvars, equation.outvars))
            if all(len(inside) == len(outside) for inside, outside in ends):
                return value
    return None


def _unrolled(equation: JaxprEqn, given: list[Known], visit: Visit) -> list[Known]:
    params = equation.params
    consts, carry = params["num_consts"], params["num_carry"]
    fixed, state, over = given[:consts], given[consts : consts + carry], given[consts + carry :]
    steps, out = range(params["length"]), []
    for step in reversed(steps) if params["reverse"] else steps:
        found = walk(params["jaxpr"], [*fixed, *state, *(_taken(x, step) for x in over)], visit)
        state = found[:carry]
        out.append(found[carry:])
    if params["reverse"]:
        out.reverse()
    return [*state, *map(_stacked, zip(*out, strict=True))]


def _taken(known: Known, step: int) -> Known:
    place = None if known.place is None else known.place[step]
    return known._replace(value=known.value[step], place=place)


def _stacked(parts: Sequence[Known]) -> Known:
    places = [part.place for part in parts]
    return Known(
        jnp.stack([part.value for part in parts]),
        any(part.active for part in parts),
        any(part.weights for part in parts),
        None if any(place is None for place in places) else np.stack(places),  # type: ignore[arg-type]
    )


def _places(
    equation: JaxprEqn, given: Sequence[Known], found: Sequence[Any]
) -> list[np.ndarray | None]:
    """Say which parameter each element of a result is: moved, or made of it element by element."""
    name, unknown = equation.primitive.name, [None] * len(found)
    held = [each.place for each in given if each.place is not None]
    if not held or name in CONTRACTIONS:
        return list(unknown)
    if name in MOVES:
        moved = [
            each.place
            if each.place is not None
            else np.full(np.shape(each.value), -1, np.int32)
            if jnp.issubdtype(jnp.result_type(each.value), jnp.inexact)
            else each.value
            for each in given
        ]
        with jax.ensure_compile_time_eval():
            return [np.asarray(place) for place in evaluate(equation, moved)]
    if len(found) > 1:
        return list(unknown)
    same = [place for place in held if place.shape == np.shape(found[0])]
    # A scale that is spread over the axes of a kernel has few parameters, the kernel many.
    return [max(same, key=lambda place: np.unique(place).size) if len(same) > 1 else
            same[0] if same else None]  # fmt: skip


def _opened(program: Program) -> tuple[Jaxpr, Sequence[Any]]:
    if isinstance(program, ClosedJaxpr):
        return program.jaxpr, program.consts
    return program, ()

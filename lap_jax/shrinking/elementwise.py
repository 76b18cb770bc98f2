"""Steps that go entry by entry: of constants they are computed, and of a product with nought."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.shrinking.facts import Constant, Facts, of_axes
from lap_jax.shrinking.rules import Part, Rule, Wants, computed
from lap_jax.shrinking.steps import Step, is_entrywise
from lap_jax.tracing.interpreter import Interpreter, evaluate, programs, read

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn


def _learn(step: Step, ins: Sequence[Facts], outs: Sequence[Facts]) -> Sequence[Facts]:
    (out,) = outs
    axes = [_along(step, ins, axis, size) for axis, size in enumerate(out.shape)]
    return [of_axes(out.shape, out.dtype, axes)]


def _along(step: Step, ins: Sequence[Facts], axis: int, size: int) -> Constant | None:
    """Return the constant slices of the result along an axis."""
    parts = [_vector(facts, axis, size) for facts in ins]
    zero = [part.where & (part.value == 0) for part in parts]
    where = np.logical_and.reduce([part.where for part in parts])
    annihilated = np.zeros(size, bool)
    if step.name == "mul" or (step.name == "and" and ins[0].dtype == bool):
        annihilated = np.logical_or.reduce(zero)
    elif step.name == "div":
        annihilated = zero[0]
    elif step.name == "select_n":
        which, *cases = parts
        chosen = np.zeros(size, bool)
        for number, case in enumerate(cases):
            chosen |= which.where & (which.value == number) & case.where
        same = np.logical_and.reduce([c.where & (c.value == cases[0].value) for c in cases])
        where = chosen | same
    found = where | annihilated
    if not found.any():
        return None
    (value,) = entrywise(
        step.does, [jnp.asarray(p.value, f.dtype) for p, f in zip(parts, ins, strict=True)]
    )
    value = np.asarray(value)
    return Constant(found, np.where(annihilated & ~where, np.zeros((), value.dtype), value))


def _vector(facts: Facts, axis: int, size: int) -> Constant:
    """Return the constant slices of an operand along an axis of the result."""
    nothing = Constant(np.zeros(size, bool), np.ones(size, facts.dtype))
    if facts.shape == ():
        if facts.array is None or (facts.fixed is not None and not facts.fixed.all()):
            return nothing
        return Constant(np.ones(size, bool), np.full(size, facts.array))
    part = facts.constants[axis]
    return nothing if part is None else part.along(size)


def _wants(part: Part) -> Wants:
    return [
        tuple(
            keep if size == len(keep) else np.ones(1, bool)
            for size, keep in zip(facts.shape, part.keep, strict=True)
        )
        if facts.shape
        else ()
        for facts in part.ins
    ]


def _compute(part: Part, arrays: Sequence[Any], wide: bool) -> Sequence[Any]:
    if programs(part.eqn):
        return _call(part.eqn)(*arrays)
    return computed(part.eqn, arrays, wide)


def entrywise(eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    """Compute an equation that goes entry by entry on arrays of any one shape."""
    inner = programs(eqn)
    return _read(inner[0], arrays) if inner else evaluate(eqn, arrays)


def _read(program: Any, arrays: Sequence[Any]) -> list[Any]:
    """Compute a program that goes entry by entry on arrays of any one shape, or numbers."""
    shape = np.broadcast_shapes(*map(np.shape, arrays))

    def equation(eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        if eqn.primitive.name == "broadcast_in_dim":  # of a number: to the shape that there is
            return [jnp.broadcast_to(values[0], shape)]
        target = np.broadcast_shapes(*map(np.shape, values))
        return evaluate(eqn, [jnp.broadcast_to(value, target) for value in values])

    def call(eqn: JaxprEqn, values: list[Any], run: Any) -> list[Any]:
        own = eqn.primitive.name in ("custom_jvp_call", "custom_vjp_call")
        found = _call(eqn)(*values) if own else run(values)
        return list(found)

    def no(*_: Any) -> list[Any]:
        raise PruningError("a loop does not go entry by entry: please report it")

    found = read(Interpreter(lambda value: value, equation, call, no, no, []), program, arrays)
    return [jnp.broadcast_to(value, shape) for value in found]


def _call(eqn: JaxprEqn) -> Callable[..., list[Any]]:
    """Return a call as a function of arrays of any one shape, with the derivative that it has."""
    (inner,) = programs(eqn)
    own = [var.aval for var in eqn.invars]
    if not all(jnp.issubdtype(aval.dtype, jnp.floating) for aval in own):  # type: ignore[attr-defined]
        return lambda *arrays: _read(inner, arrays)
    structs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in own]  # type: ignore[attr-defined]

    def original(*arrays: Any) -> list[Any]:
        return evaluate(eqn, arrays)

    def primal(*arrays: Any) -> list[Any]:
        return _read(inner, arrays)

    if eqn.primitive.name == "custom_jvp_call":
        forward = jax.custom_jvp(primal)

        def jvp(primals: Any, tangents: Any) -> Any:
            program = jax.make_jaxpr(lambda p, t: jax.jvp(original, p, t))(
                tuple(structs), tuple(structs)
            )
            if not is_entrywise(program):
                return jax.jvp(primal, primals, tangents)
            found = _read(program, [*primals, *tangents])
            return found[: len(found) // 2], found[len(found) // 2 :]

        forward.defjvp(jvp)
        return forward
    backward = jax.custom_vjp(primal)
    outs = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in eqn.outvars]  # type: ignore[attr-defined]
    program = jax.make_jaxpr(lambda p, c: jax.vjp(original, *p)[1](c))(tuple(structs), outs)
    if not is_entrywise(program):
        return primal
    backward.defvjp(
        lambda *arrays: (primal(*arrays), arrays),
        lambda arrays, cotangents: tuple(_read(program, [*arrays, *cotangents])),
    )
    return backward


def known_fixed(step: Step, ins: Sequence[Facts]) -> np.ndarray | None:
    """Return which entries of a function of known arrays are fixed; None: all."""
    if all(facts.fixed is None for facts in ins):
        return None
    fixed = np.ones((1,) * max(len(facts.shape) for facts in ins), bool)
    for facts in ins:
        own = np.ones((), bool) if facts.fixed is None else facts.fixed
        fixed = fixed & own
    if step.name == "mul":
        for facts in ins:
            assert facts.array is not None
            fixed = fixed | ~facts.alive
    return fixed


ELEMENTWISE_RULE = Rule(_learn, _wants, _compute)
"""The rule of every step that `fits`."""

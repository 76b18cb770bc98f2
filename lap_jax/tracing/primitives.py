"""The table of primitives, and how a program is read into a graph."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from lap_jax.tracing import channels
from lap_jax.tracing.arithmetic import ARITHMETIC, COMPARISON, ELEMENTWISE, Rule
from lap_jax.tracing.builder import GraphBuilder
from lap_jax.tracing.choosing import CHOOSING
from lap_jax.tracing.contracting import CONTRACTING
from lap_jax.tracing.counting import counted
from lap_jax.tracing.interpreter import Interpreter, Run, out_shapes
from lap_jax.tracing.looping import branch, loop
from lap_jax.tracing.making import MAKING, entrywise
from lap_jax.tracing.moving import (
    ANYWHERE,
    MOVEMENTS,
    MOVEMENTS_OF_PARAMETERS,
    MOVING,
    SCATTERING,
)
from lap_jax.tracing.parameters import LINEAR, OF_PARAMETERS, ParameterRule, constants
from lap_jax.tracing.reducing import REDUCING, REDUCTION
from lap_jax.tracing.sharing import beside, shifted
from lap_jax.tracing.values import FromParams, Traced, Value, opaque, traced

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

RULES: dict[str, Rule] = {**ARITHMETIC, **MOVEMENTS, **REDUCING, **CHOOSING, **CONTRACTING}
"""What becomes of activations; what is not here keeps no channels apart."""
PARAMETER_RULES: dict[str, ParameterRule] = {
    **dict.fromkeys(ELEMENTWISE | COMPARISON, entrywise),
    **OF_PARAMETERS,
    **MOVEMENTS_OF_PARAMETERS,
    **MAKING,
}
"""What becomes of parameters alone; what is not here gives no product of their powers."""

_BESIDE = frozenset(
    ("add", "sub", "add_any", "concatenate", "stack", "select_n", "pad", "dynamic_update_slice")
)  # fmt: skip
_REASONS = {
    "while": "how often it goes round is not known beforehand: use lax.scan, or lax.fori_loop with "
    "numbers",
}
"""Why a primitive without a rule has none, where there is more to say."""


# Elsewhere it counts no more that a value is one of several kernels.
_KNOWS_KERNELS = frozenset(
    (*LINEAR, *(name for name in MOVING if name not in ANYWHERE), "dot_general",
     "conv_general_dilated", *CHOOSING)
)  # fmt: skip
# Elsewhere it is not told which head an element is of, only that it is of none.
_KEEPS_HEADS = frozenset(
    (*ARITHMETIC, *REDUCTION, *(name for name in MOVING if name not in ANYWHERE), "dot_general")
)


def graph_interpreter(builder: GraphBuilder) -> Interpreter:
    """Return how to read a program into a graph."""

    def call(eqn: JaxprEqn, values: list[Any], run: Run) -> Sequence[Any]:
        return run(values)

    return Interpreter(
        literal=_literal,
        equation=functools.partial(_equation, builder),
        call=call,
        branches=functools.partial(branch, builder),
        loop=functools.partial(loop, builder),
        calls=builder.calls,
        counted=lambda eqn, values: counted(eqn, [_number(value) for value in values]),
    )


def _number(value: Value) -> Any:
    """Return the number that a value is, if it is one and known."""
    if isinstance(value, FromParams) and value.compute is not None and value.shape == ():
        return value.compute()
    return None


def _literal(value: Any) -> FromParams:
    shape = np.shape(value)
    number = shape == () and jnp.issubdtype(jnp.result_type(value), jnp.number)
    return FromParams(shape, (), float(np.float32(abs(value))) if number else 1.0, lambda: value)


def _equation(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    name = eqn.primitive.name
    known = [value for value in values if isinstance(value, FromParams)]
    if len(known) < len(values):
        if name not in _KNOWS_KERNELS:
            values = [_without_kernels(value) for value in values]
        if name in RULES:
            found = RULES[name](builder, eqn, values)
            _leave(builder, eqn, values)
            return found if name in _KEEPS_HEADS else [_headless(value) for value in found]
        return builder.barrier(
            eqn, values, _REASONS.get(name, f"{name} is not known to keep channels apart")
        )
    if all(value.is_constant for value in known):
        return constants(eqn, known)
    if name in PARAMETER_RULES:
        return PARAMETER_RULES[name](eqn, known)
    return [opaque(known, shape) for shape in out_shapes(eqn)]


def _headless(value: Value) -> Value:
    return value._replace(heads=(), asked=()) if isinstance(value, Traced) else value


def _without_kernels(value: Value) -> Value:
    return value._replace(kernels=()) if isinstance(value, Traced) else value


def _leave(builder: GraphBuilder, eqn: JaxprEqn, values: Sequence[Value]) -> None:
    """Record what an equation makes of parameters that meet activations, and are no layers."""
    name, line = eqn.primitive.name, builder.where(eqn)
    for value in values:
        if not isinstance(value, FromParams) or not value.leaves:
            continue
        if name in ("add", "sub", "add_any"):
            for other in traced(values):
                shifted(builder, other, value, line)
        elif name in _BESIDE or name in ELEMENTWISE or name in SCATTERING:
            beside(builder, values, line)
        if name in ("mul", "div"):
            matrix = _is_matrix(value)
            why = "it is multiplied with data entry by entry, as a modulated kernel is: not read"
            builder.leave(value.leaves, why if matrix else "it multiplies channels", line, matrix)
        elif name in _BESIDE:
            by_position = any(_by_position(value, other) for other in traced(values))
            why = "it is a bias: an activation is added to it, or put beside it or in its place"
            if value.powers is None:
                why = "what is made of it alone is added to activations, or put beside them"
            elif by_position:
                why = "it is added to activations by their position, which no data choose"
            builder.leave(value.leaves, why, line, value.powers is None or by_position)
        else:
            new = value.leaves - set(builder.left)
            builder.leave(new, f"{name} brings it together with activations", line)


def _is_matrix(value: FromParams) -> bool:
    """Return whether parameters change along more than one axis, as far as is known."""
    if value.powers is None:
        return True
    return any(
        sum(size > 1 and by != 0 for size, by in zip(view.shape, view.strides, strict=True)) > 1
        for view in (power.view for power in value.powers)
    )


def _by_position(value: FromParams, other: Traced) -> bool:
    """Return whether parameters change along an axis on which an activation keeps its channels."""
    axes = {
        axis
        for power in value.powers or ()
        for axis, (size, by) in enumerate(zip(power.view.shape, power.view.strides, strict=True))
        if size > 1 and by and size == other.shape[axis]
    }
    ids = [source.ids for source in other.sources]
    if not ids:  # whatever its channels are, they come last
        axes.discard(len(other.shape) - 1)
    return any(all(channels.at_most_one(each, axis) for each in ids) for axis in axes)

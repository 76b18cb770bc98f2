"""The table of primitives, and how a program is read into a graph."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from lap_jax.tracing.arithmetic import ARITHMETIC, Rule
from lap_jax.tracing.builder import GraphBuilder
from lap_jax.tracing.contracting import CONTRACTING
from lap_jax.tracing.interpreter import Interpreter, Run, out_shapes
from lap_jax.tracing.looping import branch, loop
from lap_jax.tracing.moving import MOVEMENTS, MOVEMENTS_OF_PARAMETERS
from lap_jax.tracing.parameters import OF_PARAMETERS, ParameterRule, constants
from lap_jax.tracing.reducing import REDUCING
from lap_jax.tracing.values import FromParams, Value, opaque

RULES: dict[str, Rule] = {**ARITHMETIC, **MOVEMENTS, **REDUCING, **CONTRACTING}
"""What becomes of activations; what is not here keeps no channels apart."""
PARAMETER_RULES: dict[str, ParameterRule] = {**OF_PARAMETERS, **MOVEMENTS_OF_PARAMETERS}
"""What becomes of parameters alone; what is not here gives no product of their powers."""


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
    )


def _literal(value: Any) -> FromParams:
    shape = np.shape(value)
    number = shape == () and jnp.issubdtype(jnp.result_type(value), jnp.number)
    return FromParams(shape, (), float(np.float32(abs(value))) if number else 1.0, lambda: value)


def _equation(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    name = eqn.primitive.name
    known = [value for value in values if isinstance(value, FromParams)]
    if len(known) < len(values):
        if name in RULES:
            return RULES[name](builder, eqn, values)
        return builder.barrier(eqn, values, f"{name} is not known to keep channels apart")
    if all(value.is_constant for value in known):
        return constants(eqn, known)
    if name in PARAMETER_RULES:
        return PARAMETER_RULES[name](eqn, known)
    return [opaque(known, shape) for shape in out_shapes(eqn)]

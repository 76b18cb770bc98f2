"""How often a `while` goes round, where numbers tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from lap_jax.tracing.interpreter import evaluate

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr, JaxprEqn

MOST_STEPS = 4096
"""Of a loop that is counted; of longer ones the number counts as unknown."""


def counted(equation: JaxprEqn, numbers: Sequence[Any]) -> JaxprEqn:
    """Return a `while` as the `scan` that it is, or as it is where its steps cannot be counted.

    Args:
      equation: the `while`.
      numbers: what goes in, where that is a number that is known; else None.

    Returns:
      The equation; a `scan` reads the same values but for those of the condition alone.
    """
    body, lone = equation.params["body_jaxpr"], equation.params["cond_nconsts"]
    length = steps(equation, numbers)
    if length is None:
        return equation
    (scan,) = jax.make_jaxpr(
        lambda x: jax.lax.scan(lambda carry, _: (carry, None), x, None, length)[0]
    )(0.0).jaxpr.eqns
    carry = len(equation.outvars)
    inputs = equation.invars[lone:]
    params = scan.params | {
        "jaxpr": body, "num_consts": len(inputs) - carry, "num_carry": carry,
    }  # fmt: skip
    if "linear" in params:  # of some versions of JAX
        params["linear"] = (False,) * len(inputs)
    return equation.replace(primitive=scan.primitive, invars=inputs, params=params)


def steps(equation: JaxprEqn, numbers: Sequence[Any]) -> int | None:
    """Return how often a `while` goes round; None if numbers do not tell, or beyond `MOST_STEPS`.

    Only what the condition depends on is computed, from step to step, such as a counter.
    """
    params = equation.params
    at = params["cond_nconsts"]
    start = at + params["body_nconsts"]
    own, consts, carry = numbers[:at], numbers[at:start], list(numbers[start:])
    for step in range(MOST_STEPS + 1):
        (goes_on,) = _numbers(params["cond_jaxpr"], [*own, *carry])
        if goes_on is None:
            return None
        if not goes_on:
            return step
        carry = _numbers(params["body_jaxpr"], [*consts, *carry])
    return None


def _numbers(program: ClosedJaxpr, values: Sequence[Any]) -> list[Any]:
    """Compute those results of a program that are numbers made of known ones; None elsewhere."""
    from jax.extend.core import Literal

    jaxpr = program.jaxpr
    known = {var: value for var, value in zip(jaxpr.invars, values, strict=True)}
    known |= {
        var: value if np.ndim(value) == 0 else None
        for var, value in zip(jaxpr.constvars, program.consts, strict=True)
    }

    def number(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else known.get(atom)

    for equation in jaxpr.eqns:
        arguments = [number(atom) for atom in equation.invars]
        shapes = [var.aval.shape for var in equation.outvars]
        if any(argument is None for argument in arguments) or any(shapes) or equation.effects:
            continue
        with jax.ensure_compile_time_eval():
            known |= zip(equation.outvars, evaluate(equation, arguments), strict=True)
    return [number(atom) for atom in jaxpr.outvars]

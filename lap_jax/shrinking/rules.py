"""What a rule says of a kind of step, and the rule for everything else: at full size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax.numpy as jnp

from lap_jax.shrinking.facts import Facts
from lap_jax.shrinking.slices import Sets, everything, places_in, taken
from lap_jax.shrinking.steps import Step
from lap_jax.tracing.interpreter import evaluate, programs

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

Wants: TypeAlias = list[Sets | None]


class Part(NamedTuple):
    """A step to be computed in part.

    Attributes:
      step: what it does.
      ins: what is known of what goes in.
      outs: what is known of what comes out.
      keeps: slices of each result that are to be computed; None: it is not needed.
    """

    step: Step
    ins: Sequence[Facts]
    outs: Sequence[Facts]
    keeps: Sequence[Sets | None]

    @property
    def keep(self) -> Sets:
        """Return the slices of the first result."""
        assert self.keeps[0] is not None
        return self.keeps[0]

    @property
    def eqn(self) -> JaxprEqn:
        """Return the equation that the step is."""
        from jax.extend.core import JaxprEqn

        assert isinstance(self.step.does, JaxprEqn)
        return self.step.does


class Rule(NamedTuple):
    """What is to be said of a kind of step.

    Attributes:
      learn: ``(step, facts in, facts out) -> facts out``, from ones that know nothing.
      wants: ``(part) ->`` the slices of each operand that it takes.
      compute: ``(part, arrays, wide) ->`` the results at ``part.keeps``, from operands at the
        slices that it wants; ``wide`` computes half precision in float32.
    """

    learn: Callable[[Step, Sequence[Facts], Sequence[Facts]], Sequence[Facts]]
    wants: Callable[[Part], Wants]
    compute: Callable[[Part, Sequence[Any], bool], Sequence[Any]]


def nothing(step: Step, ins: Sequence[Facts], outs: Sequence[Facts]) -> Sequence[Facts]:
    """Learn nothing."""
    return outs


def all_of_it(part: Part) -> Wants:
    """Take operands at full size."""
    return [everything(each.shape) for each in part.ins]


def computed(eqn: JaxprEqn, arrays: Sequence[Any], wide: bool) -> list[Any]:
    """Compute an equation; ``wide`` in float32 what it would in half precision."""
    if not wide:
        return evaluate(eqn, arrays)
    if programs(eqn) or eqn.primitive.name in ("while", "scan", "cond", "custom_vjp_call"):
        dtypes = [var.aval.dtype for var in eqn.invars]  # type: ignore[attr-defined]
        own = [_as(array, dtype) for array, dtype in zip(arrays, dtypes, strict=True)]
        return [widened(array) for array in evaluate(eqn, own)]
    params = dict(eqn.params)
    for key in ("new_dtype", "preferred_element_type", "dtype"):
        if key in params and is_half(params[key]):
            params[key] = jnp.dtype(jnp.float32)
    if eqn.primitive.name == "reduce_precision":
        return list(arrays)
    return evaluate(eqn.replace(params=params), arrays)


def is_half(dtype: Any) -> bool:
    """Return whether numbers are floating-point ones of less than 32 bits."""
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating) and (
        jnp.dtype(dtype).itemsize < 4
    )  # fmt: skip


def _as(array: Any, dtype: Any) -> Any:
    return array.astype(dtype) if is_half(dtype) else array


def widened(array: Any) -> Any:
    """Return an array of half precision in float32, any other as it is."""
    return array.astype(jnp.float32) if is_half(getattr(array, "dtype", None)) else array


def _at_full_size(part: Part, arrays: Sequence[Any], wide: bool) -> Sequence[Any]:
    found = computed(part.eqn, arrays, wide)
    return [
        None if keep is None else narrow(array, everything(facts.shape), keep)
        for array, facts, keep in zip(found, part.outs, part.keeps, strict=True)
    ]


FULL = Rule(nothing, all_of_it, _at_full_size)
"""The rule for what has none."""


def narrow(array: Any, have: Sets, keep: Sets) -> Any:
    """Return the slices to be kept of those computed."""
    for axis, (own, wanted) in enumerate(zip(have, keep, strict=True)):
        array = taken(array, axis, places_in(own, wanted))
    return array

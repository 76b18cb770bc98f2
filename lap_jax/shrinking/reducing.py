"""Steps that work along some axes only: reductions, sorts, windows, and what is looked up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lap_jax.shrinking.facts import Constant, Facts, of_axes, zeros
from lap_jax.shrinking.rules import Part, Rule, Wants, computed, narrow
from lap_jax.shrinking.slices import everything
from lap_jax.shrinking.steps import Step

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

Axes: TypeAlias = "Callable[[JaxprEqn], Sequence[int]]"


def _axes(eqn: JaxprEqn) -> Sequence[int]:
    return tuple(eqn.params["axes"])


def _axis(eqn: JaxprEqn) -> Sequence[int]:
    return (eqn.params["axis"],)


# ---------------------------------------------------------------- reductions


def _reduction(axes: Axes, number: Callable[[Any, int], Any] | None, skips: bool = False) -> Rule:
    """Return the rule of a reduction.

    Args:
      axes: along which it works; they are gone afterwards.
      number: ``(constant, count)`` to the result of so many of them; None: it is not followed.
      skips: noughts change nothing.
    """

    def learn(step: Step, ins: Sequence[Facts], outs: Sequence[Facts]) -> Sequence[Facts]:
        gone = axes(step.does)  # type: ignore[arg-type]
        (facts,), (out,) = ins, outs
        if number is None:
            return outs
        rest = [axis for axis in range(len(facts.shape)) if axis not in gone]
        count = math.prod(facts.shape[axis] for axis in gone)
        found = list[Constant | None]()
        for axis in rest:
            part = facts.constants[axis]
            if part is not None:
                with np.errstate(all="ignore"):
                    value = np.asarray(number(part.value, count)).astype(out.dtype)
                part = Constant(part.where, value)
            found.append(part)
        return [of_axes(out.shape, out.dtype, found)]

    def wants(part: Part) -> Wants:
        gone = axes(part.eqn)
        (facts,) = part.ins
        keep = iter(part.keep)
        found = []
        for axis, size in enumerate(facts.shape):
            if axis not in gone:
                found.append(next(keep))
            elif skips and facts.array is None:
                found.append(~facts.zero(axis))
            else:
                found.append(np.ones(size, bool))
        return [tuple(found)]

    def compute(part: Part, arrays: Sequence[Any], wide: bool) -> Sequence[Any]:
        return computed(part.eqn, arrays, wide)

    return Rule(learn, wants, compute)


# ---------------------------------------------------------------- along an axis


def _along(axes: Axes, keeps_zeros: bool, keeps_numbers: bool = False) -> Rule:
    """Return the rule of what works along axes that stay, and leaves slices of others apart."""

    def learn(step: Step, ins: Sequence[Facts], outs: Sequence[Facts]) -> Sequence[Facts]:
        along = axes(step.does)  # type: ignore[arg-type]
        if not keeps_zeros or len(ins) > 1:
            return outs
        (facts,), (out,) = ins, outs
        rest = [axis not in along for axis in range(len(facts.shape))]
        if keeps_numbers:
            parts = zip(rest, facts.constants, strict=True)
            return [of_axes(out.shape, out.dtype, [p if own else None for own, p in parts])]
        nought = [facts.zero(axis) if own else None for axis, own in enumerate(rest)]
        return [zeros(out.shape, out.dtype, nought)]

    def wants(part: Part) -> Wants:
        along, kept = axes(part.eqn), [keep for keep in part.keeps if keep is not None]
        found = []
        for axis, size in enumerate(part.ins[0].shape):
            if axis in along:
                found.append(np.ones(size, bool))
            else:
                found.append(np.logical_or.reduce([keep[axis] for keep in kept]))
        return [tuple(found) for _ in part.ins]

    def compute(part: Part, arrays: Sequence[Any], wide: bool) -> Sequence[Any]:
        (box, *_) = wants(part)
        assert box is not None
        along = axes(part.eqn)
        results = computed(part.eqn, arrays, wide)
        found = list[Any]()
        for out, keep, array in zip(part.outs, part.keeps, results, strict=True):
            if keep is None:
                found.append(None)
                continue
            have = tuple(
                np.ones(size, bool) if axis in along else box[axis]
                for axis, size in enumerate(out.shape)
            )
            found.append(narrow(array, have, keep))
        return found

    return Rule(learn, wants, compute)


def _windows(eqn: JaxprEqn) -> Sequence[int]:
    params = eqn.params
    whole = zip(
        params["window_dimensions"], params["window_strides"], params["padding"],
        params["base_dilation"], strict=True,
    )  # fmt: skip
    return [
        axis
        for axis, (size, stride, pads, dilation) in enumerate(whole)
        if size != 1 or stride != 1 or any(pads) or dilation != 1
    ]


def _last(eqn: JaxprEqn) -> Sequence[int]:
    return (len(eqn.invars[0].aval.shape) - 1,)  # type: ignore[attr-defined]


# ---------------------------------------------------------------- looked up by the inputs


def _passing(eqn: JaxprEqn) -> dict[int, int]:
    """Return the axes that are taken whole, and where they are in the result."""
    old = eqn.invars[0].aval.shape  # type: ignore[attr-defined]
    if eqn.primitive.name != "gather":
        changed = eqn.outvars[0].aval.shape if eqn.primitive.name == "dynamic_slice" else (  # type: ignore[attr-defined]
            eqn.invars[1].aval.shape)  # type: ignore[attr-defined] # fmt: skip
        return {axis: axis for axis, size in enumerate(old) if size == changed[axis]}
    dims, chosen = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    gone = {*dims.collapsed_slice_dims, *dims.operand_batching_dims}
    offsets = iter(dims.offset_dims)
    places = {axis: next(offsets) for axis in range(len(old)) if axis not in gone}
    return {axis: at for axis, at in places.items() if chosen[axis] == old[axis]}


def _learn_lookup(step: Step, ins: Sequence[Facts], outs: Sequence[Facts]) -> Sequence[Facts]:
    found: list[np.ndarray | None] = [None] * len(outs[0].shape)
    for axis, at in _passing(step.does).items():  # type: ignore[arg-type]
        found[at] = ins[0].zero(axis)
        if step.name == "dynamic_update_slice":
            found[at] = ins[0].zero(axis) & ins[1].zero(axis)
    return [zeros(outs[0].shape, outs[0].dtype, found)]


def _want_lookup(part: Part) -> Wants:
    found = [list(everything(facts.shape)) for facts in part.ins]
    for axis, at in _passing(part.eqn).items():
        found[0][axis] = part.keep[at]
        if part.step.name == "dynamic_update_slice":
            found[1][axis] = part.keep[at]
    return [tuple(box) for box in found]


def _look_up(part: Part, arrays: Sequence[Any], wide: bool) -> Sequence[Any]:
    passing = _passing(part.eqn)
    have = list(everything(part.outs[0].shape))
    for at in passing.values():
        have[at] = part.keep[at]
    eqn = part.eqn
    if "slice_sizes" in eqn.params:
        chosen = list(eqn.params["slice_sizes"])
        for axis, at in passing.items():
            chosen[axis] = int(part.keep[at].sum())
        eqn = eqn.replace(params={**eqn.params, "slice_sizes": tuple(chosen)})
    (found,) = computed(eqn, arrays, wide)
    return [narrow(found, tuple(have), part.keep)]


def _same(value: Any, count: int) -> Any:
    return value


_LOOKUP = Rule(_learn_lookup, _want_lookup, _look_up)

AXIS_RULES: dict[str, Rule] = {
    "reduce_sum": _reduction(_axes, lambda value, count: value * count, skips=True),
    **dict.fromkeys(("reduce_max", "reduce_min", "reduce_and", "reduce_or"),
                    _reduction(_axes, _same)),
    "reduce_prod": _reduction(_axes, lambda value, count: value**count),
    "reduce_xor": _reduction(_axes, None),
    "argmax": _reduction(_axes, None),
    "argmin": _reduction(_axes, None),
    "cumsum": _along(_axis, True),
    "cumlogsumexp": _along(_axis, False),
    "cumprod": _along(_axis, True),
    "cummax": _along(_axis, True, True),
    "cummin": _along(_axis, True, True),
    "sort": _along(lambda eqn: (eqn.params["dimension"],), True, True),
    "top_k": _along(_last, False),
    "reduce_window_max": _along(_windows, True, True),
    "reduce_window_min": _along(_windows, True, True),
    "reduce_window_sum": _along(_windows, True),
    "gather": _LOOKUP,
    "dynamic_slice": _LOOKUP,
    "dynamic_update_slice": _LOOKUP,
}  # fmt: skip
"""Rules of what works along some axes, by the primitive's name."""

"""Dot products: what meets only noughts is left out, and constants become a bias."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lap_jax.shrinking.facts import Constant, Facts, by_entry, of_axes
from lap_jax.shrinking.rules import Part, Rule, computed
from lap_jax.shrinking.slices import Sets, everything
from lap_jax.shrinking.steps import Step


class _Side(NamedTuple):
    """An operand: its axes that are contracted, batched and free, and where the last are then."""

    contracted: tuple[int, ...]
    batch: tuple[int, ...]
    free: tuple[int, ...]
    at: tuple[int, ...]


def _sides(step: Step, ins: Sequence[Facts]) -> tuple[_Side, _Side]:
    (left, right), (left_batch, right_batch) = step.does.params["dimension_numbers"]  # type: ignore[union-attr]
    found, start = [], len(left_batch)
    for facts, contracted, batch in zip(
        ins, (left, right), (left_batch, right_batch), strict=True
    ):  # fmt: skip
        gone = {*contracted, *batch}
        free = tuple(axis for axis in range(len(facts.shape)) if axis not in gone)
        at = tuple(range(start, start + len(free)))
        start += len(free)
        found.append(_Side(tuple(contracted), tuple(batch), free, at))
    return found[0], found[1]


def _learn_dot(step: Step, ins: Sequence[Facts], outs: Sequence[Facts]) -> Sequence[Facts]:
    (out,), sides = outs, _sides(step, ins)
    axes: list[Constant | None] = [None] * len(out.shape)

    def nought(at: int, where: np.ndarray) -> None:
        part = axes[at]
        if part is None:
            axes[at] = Constant(where, np.zeros(len(where), out.dtype))
        else:  # what is nought of one side is nought, whatever else is known
            value = np.where(where, np.zeros((), out.dtype), part.value)
            axes[at] = Constant(part.where | where, value)

    for number, (facts, side) in enumerate(zip(ins, sides, strict=True)):
        other, own = ins[1 - number], sides[1 - number]
        if facts.array is not None and other.array is None:
            for at, part in _of_known(facts, side, other, own, out):
                axes[at] = part
    for facts, side in zip(ins, sides, strict=True):
        for at, axis in enumerate(side.batch):
            nought(at, facts.zero(axis))
        for at, axis in zip(side.at, side.free, strict=True):
            if facts.array is None:
                nought(at, facts.zero(axis))
        if facts.shape and facts.zero(0).all():
            return [_all_zero(out)]
    return [of_axes(out.shape, out.dtype, axes)]


def _all_zero(out: Facts) -> Facts:
    return of_axes(
        out.shape, out.dtype,
        [Constant(np.ones(size, bool), np.zeros(size, out.dtype)) for size in out.shape],
    )  # fmt: skip


def _of_known(
    facts: Facts, side: _Side, other: Facts, own: _Side, out: Facts
) -> list[tuple[int, Constant]]:
    """Return the constant results of a known array, along its batch and free axes."""
    order = (*side.contracted, *side.batch, *side.free)
    count = len(side.contracted)
    shape = [facts.shape[axis] for axis in order]
    alive = np.broadcast_to(facts.alive, facts.shape).transpose(order)
    constant = by_entry([other.constants[axis] for axis in own.contracted], shape[:count])
    total: Any = None
    active: np.ndarray
    if constant is None:
        active = np.asarray(alive.any(tuple(range(count))))
    else:
        where, value = (each.reshape((*shape[:count], *[1] * (len(shape) - count)))
                        for each in constant)  # fmt: skip
        changes = ~where
        if facts.fixed is not None:
            fixed = np.broadcast_to(facts.fixed, facts.shape).transpose(order)
            changes = changes | (~fixed & (value != 0))
        active = np.asarray((alive & changes).any(tuple(range(count))))
        total = _contracted(facts, order, count, np.where(where, value, 0), shape)
    found = []
    for i, at in enumerate((*range(len(side.batch)), *side.at)):
        where = ~np.asarray(np.moveaxis(active, i, 0).reshape(active.shape[i], -1).any(1))
        values = np.zeros(len(where), out.dtype)
        if total is not None:
            rows = np.moveaxis(total, i, 0).reshape(total.shape[i], -1)
            where = where & (rows == rows[:, :1]).all(1)
            values = rows[:, 0].astype(out.dtype)
        found.append((at, Constant(where, values)))
    return found


def _contracted(
    facts: Facts, order: Sequence[int], count: int, constant: np.ndarray, shape: Sequence[int]
) -> np.ndarray | None:
    """Contract a known array with constants; None where these are all zero."""
    rest = tuple(shape[count:])
    values = constant.reshape(math.prod(shape[:count]))
    rows = np.flatnonzero(values)
    if not len(rows):
        return None
    assert facts.array is not None
    matrix = np.broadcast_to(facts.array, facts.shape).transpose(order)
    picked = matrix.reshape(len(values), -1)[rows].astype(np.float64)
    return (values[rows].astype(np.float64) @ picked).reshape(rest)


class _Dot(NamedTuple):
    """Slices of both operands, and what constants that are left out add to the result."""

    wants: tuple[Sets, Sets]
    bias: np.ndarray | None


def _dot(part: Part) -> _Dot:
    sides, keep = _sides(part.step, part.ins), part.keep
    found = [
        list(everything(facts.shape)) for facts in part.ins
    ]  # fmt: skip
    for side, own in zip(sides, found, strict=True):
        for at, axis in enumerate(side.batch):
            own[axis] = keep[at]
        for at, axis in zip(side.at, side.free, strict=True):
            own[axis] = keep[at]
    alive = [_alive(facts, own) for facts, own in zip(part.ins, found, strict=True)]
    folds = False
    for left, right in zip(sides[0].contracted, sides[1].contracted, strict=True):
        both = alive[0][left] & alive[1][right]
        for number, axis, opposite in ((0, left, right), (1, right, left)):
            facts, other = part.ins[number], part.ins[1 - number]
            constant = facts.constants[axis] if facts.array is None else None
            if constant is None or other.array is None:
                continue
            gone = both & constant.where & _fixed(other, opposite)
            folds |= bool(gone.any())
            both = both & ~gone
        found[0][left] = found[1][right] = both
    wants = (tuple(found[0]), tuple(found[1]))
    return _Dot(wants, _bias(part, sides, wants) if folds else None)


def _alive(facts: Facts, box: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return along each axis the slices that are not nought, as far as a box needs them."""
    if facts.array is None:
        return [~facts.zero(axis) for axis in range(len(facts.shape))]
    alive = facts.alive
    for axis, own in enumerate(box):
        if alive.shape[axis] == len(own) and not own.all():
            alive = np.compress(own, alive, axis)
    found = []
    for axis, own in enumerate(box):
        rest = alive.any(tuple(i for i in range(alive.ndim) if i != axis))
        whole = np.zeros(len(own), bool)
        whole[own] = rest
        found.append(whole)
    return found


def _fixed(facts: Facts, axis: int) -> np.ndarray:
    """Return which slices of a known array training does not change."""
    if facts.fixed is None:
        return np.ones(facts.shape[axis], bool)
    fixed = facts.fixed.all(tuple(i for i in range(facts.fixed.ndim) if i != axis))
    return np.broadcast_to(fixed, facts.shape[axis])


def _bias(part: Part, sides: tuple[_Side, _Side], wants: tuple[Sets, Sets]) -> np.ndarray | None:
    """Return what the constants outside of the slices that are taken add to the result."""
    number = 0 if part.ins[0].array is not None else 1
    facts, side, other, own = (
        part.ins[number],
        sides[number],
        part.ins[1 - number],
        sides[1 - number],
    )
    order = (*side.contracted, *side.batch, *side.free)
    shape = [facts.shape[axis] for axis in order]
    count = len(side.contracted)
    constant = by_entry([other.constants[axis] for axis in own.contracted], shape[:count])
    if constant is None:
        return None
    inside = np.ones(shape[:count], bool)
    for i, axis in enumerate(side.contracted):
        inside = inside & np.expand_dims(
            wants[number][axis], tuple(j for j in range(count) if j != i)
        )
    where, value = constant
    total = _contracted(facts, order, count, np.where(where & ~inside, value, 0), shape)
    if total is None:
        return None
    ats = (*range(len(side.batch)), *side.at)
    for i, at in enumerate(ats):
        total = np.compress(part.keep[at], total, i)
    thin = [1] * len(part.keep)
    for at, size in zip(ats, total.shape, strict=True):
        thin[at] = size
    return total.reshape(thin).astype(part.outs[0].dtype)


def _compute_dot(part: Part, arrays: Sequence[Any], wide: bool) -> Sequence[Any]:
    (found,) = computed(part.eqn, arrays, wide)
    sides = _sides(part.step, part.ins)
    may_fold = any(
        facts.array is None and any(facts.constants[axis] for axis in side.contracted)
        for facts, side in zip(part.ins, sides, strict=True)
    )
    bias = _dot(part).bias if may_fold else None
    return [found if bias is None else found + jnp.asarray(bias, found.dtype)]


DOT_RULE = Rule(_learn_dot, lambda part: list(_dot(part).wants), _compute_dot)
"""The rule of `dot_general`."""

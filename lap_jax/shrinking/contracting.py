"""Contractions: what meets only noughts is left out, and constants become a bias."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.shrinking.facts import Constant, Facts, by_entry, of_axes
from lap_jax.shrinking.listing import Step
from lap_jax.shrinking.rules import FULL, Part, Rule, Wants, computed, narrow
from lap_jax.shrinking.slices import Sets, everything, is_empty, sizes

# ---------------------------------------------------------------- dot products


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
    if constant is None:
        active = alive.any(tuple(range(count)))
    else:
        where, value = (each.reshape((*shape[:count], *[1] * (len(shape) - count)))
                        for each in constant)  # fmt: skip
        changes = ~where
        if facts.fixed is not None:
            fixed = np.broadcast_to(facts.fixed, facts.shape).transpose(order)
            changes = changes | (~fixed & (value != 0))
        active = (alive & changes).any(tuple(range(count)))
        total = _contracted(facts, order, count, np.where(where, value, 0), shape)
    found = []
    for i, at in enumerate((*range(len(side.batch)), *side.at)):
        where = ~np.moveaxis(active, i, 0).reshape(active.shape[i], -1).any(1)
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
    facts, side, other, own = part.ins[number], sides[number], part.ins[1 - number], sides[1 - number]
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
    bias = _dot(part).bias
    return [found if bias is None else found + jnp.asarray(bias, found.dtype)]


# ---------------------------------------------------------------- convolutions


class _Conv(NamedTuple):
    """A convolution: axes of its features, and its kernel as a matrix (out, in of a group)."""

    lhs: Any
    rhs: Any
    out: Any
    groups: int
    alive: np.ndarray
    padded: bool


def _conv(step: Step, ins: Sequence[Facts]) -> _Conv | None:
    params = step.does.params  # type: ignore[union-attr]
    kernel = ins[1]
    if kernel.array is None or params["batch_group_count"] != 1:
        return None
    dims = params["dimension_numbers"]
    alive = np.broadcast_to(kernel.alive, kernel.shape).transpose(dims.rhs_spec)
    alive = alive.any(tuple(range(2, alive.ndim)))
    padded = any(low or high for low, high in params["padding"])
    padded |= any(by != 1 for by in params["lhs_dilation"])
    groups = params["feature_group_count"]
    return _Conv(dims.lhs_spec, dims.rhs_spec, dims.out_spec, groups, alive, padded)


def _inputs_of(conv: _Conv, each: np.ndarray) -> np.ndarray:
    """Return a vector over input features as a matrix (out, in of a group)."""
    rows = each.reshape(conv.groups, -1)
    return np.repeat(rows, conv.alive.shape[0] // conv.groups, 0)


def _learn_conv(step: Step, ins: Sequence[Facts], outs: Sequence[Facts]) -> Sequence[Facts]:
    conv, out = _conv(step, ins), outs[0]
    if conv is None:
        return outs
    axes: list[Constant | None] = [None] * len(out.shape)
    constant = ins[0].constants[conv.lhs[1]]
    value = np.zeros(out.shape[conv.out[1]])
    if constant is None:
        changes = conv.alive
    else:
        stays = constant.where & ((constant.value == 0) | (not conv.padded))
        changes = conv.alive & ~_inputs_of(conv, stays)
        number = np.where(stays, constant.value, 0).astype(np.float64)
        if number.any():
            kernel = np.broadcast_to(ins[1].array, ins[1].shape).transpose(conv.rhs)  # type: ignore[arg-type]
            sums = kernel.astype(np.float64).reshape(*kernel.shape[:2], -1).sum(2)
            value = (sums * _inputs_of(conv, number)).sum(1)
            if ins[1].fixed is not None:
                fixed = np.broadcast_to(ins[1].fixed, ins[1].shape).transpose(conv.rhs)
                loose = ~fixed.all(tuple(range(2, fixed.ndim)))
                changes = changes | (loose & (_inputs_of(conv, number) != 0))
    axes[conv.out[1]] = Constant(~changes.any(1), value.astype(out.dtype))
    batch = ins[0].zero(conv.lhs[0])
    axes[conv.out[0]] = Constant(batch, np.zeros(len(batch), out.dtype))
    return [of_axes(out.shape, out.dtype, axes)]


class _Cut(NamedTuple):
    """The part of a convolution: groups, inputs and outputs in each, and folded input features."""

    groups: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    folded: np.ndarray


def _cut(part: Part, conv: _Conv) -> _Cut:
    facts, kernel = part.ins
    keep = part.keep[conv.out[1]]
    alive = conv.alive & keep[:, None]
    constant = facts.constants[conv.lhs[1]]
    folded = np.zeros(facts.shape[conv.lhs[1]], bool)
    if constant is not None:
        nought = constant.where & (constant.value == 0)
        if kernel.fixed is None:
            folded = constant.where & ~nought
        alive = alive & ~_inputs_of(conv, nought | folded)
    outputs = keep.reshape(conv.groups, -1)
    return _Cut(outputs.any(1), alive.any(0), outputs.any(0), folded)


def _features(groups: np.ndarray, within: np.ndarray) -> np.ndarray:
    return (groups[:, None] & within).ravel()


def _want_conv(part: Part) -> Wants:
    conv = _conv(part.step, part.ins)
    if conv is None:
        return FULL.wants(part)
    cut = _cut(part, conv)
    lhs, rhs = (list(everything(facts.shape)) for facts in part.ins)
    lhs[conv.lhs[0]] = part.keep[conv.out[0]]
    lhs[conv.lhs[1]] = _features(cut.groups, cut.inputs)
    rhs[conv.rhs[0]] = _features(cut.groups, cut.outputs)
    rhs[conv.rhs[1]] = cut.inputs
    return [tuple(lhs), tuple(rhs)]


def _compute_conv(part: Part, arrays: Sequence[Any], wide: bool) -> Sequence[Any]:
    conv = _conv(part.step, part.ins)
    if conv is None:
        return FULL.compute(part, arrays, wide)
    cut = _cut(part, conv)
    features = _features(cut.groups, cut.outputs)
    axis = conv.out[1]
    have = tuple(
        features if i == axis else part.keep[i] if i == conv.out[0] else own
        for i, own in enumerate(everything(part.outs[0].shape))
    )
    if is_empty((cut.inputs,)):
        dtype = jnp.result_type(*arrays)
        found = jnp.zeros(sizes(have), dtype if wide else part.outs[0].dtype)
    else:
        groups = {**part.eqn.params, "feature_group_count": int(cut.groups.sum())}
        (found,) = computed(part.eqn.replace(params=groups), arrays, wide)
    found = narrow(found, have, part.keep)
    image = _image(part, conv, cut)
    return [found if image is None else found + image.astype(found.dtype)]


def _image(part: Part, conv: _Conv, cut: _Cut) -> Any | None:
    """Return what constant channels add: beside the zeros of a padding, less at the border."""
    if not cut.folded.any():
        return None
    constant, kernel = part.ins[0].constants[conv.lhs[1]], part.ins[1]
    assert constant is not None and kernel.array is not None
    shape = [1 if i == conv.lhs[0] else size for i, size in enumerate(part.ins[0].shape)]
    thin = [-1 if i == conv.lhs[1] else 1 for i in range(len(shape))]
    number = np.where(cut.folded, constant.value, 0).astype(part.ins[0].dtype)
    image = np.broadcast_to(number.reshape(thin), shape)
    with jax.ensure_compile_time_eval():
        whole = [image, np.broadcast_to(kernel.array, kernel.shape)]
        (found,) = computed(part.eqn, list(map(jnp.asarray, whole)), False)
    one = tuple(
        np.ones(1, bool) if i == conv.out[0] else own for i, own in enumerate(part.keep)
    )  # fmt: skip
    have = tuple(np.ones(size, bool) for size in found.shape)
    return narrow(found, have, one)


def multiply_adds(step: Step, lhs: Sequence[int], rhs: Sequence[int], out: Sequence[int]) -> int:
    """Return how many multiply-adds a contraction of these shapes takes."""
    params = step.does.params  # type: ignore[union-attr]
    if step.name == "dot_general":
        return math.prod(out) * math.prod(lhs[axis] for axis in params["dimension_numbers"][0][0])
    spec = params["dimension_numbers"].rhs_spec
    return math.prod(out) * math.prod(rhs[axis] for axis in spec[1:])


CONTRACTION_RULES: dict[str, Rule] = {
    "dot_general": Rule(_learn_dot, lambda part: list(_dot(part).wants), _compute_dot),
    "conv_general_dilated": Rule(_learn_conv, _want_conv, _compute_conv),
}
"""Rules of contractions, by the primitive's name."""

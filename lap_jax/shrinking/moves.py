"""Steps that move slices: transposed, repeated, chosen, reshaped, put behind each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lap_jax.shrinking.facts import Constant, Facts, by_entry, of_axes
from lap_jax.shrinking.rules import Part, Rule, Wants
from lap_jax.shrinking.slices import Sets, places_in, sizes, taken
from lap_jax.shrinking.steps import Concatenate, Fill, Step
from lap_jax.tracing.movements import NONE, Broadcast, Take, Transpose, common_groups

# ---------------------------------------------------------------- transposed


def _learn_transpose(step: Step, ins: Sequence[Facts], outs: Sequence[Facts]) -> Sequence[Facts]:
    assert isinstance(step.does, Transpose)
    return [of_axes(outs[0].shape, outs[0].dtype, [ins[0].constants[i] for i in step.does.order])]


def _want_transpose(part: Part) -> Wants:
    assert isinstance(part.step.does, Transpose)
    return [tuple(part.keep[axis] for axis in np.argsort(part.step.does.order))]


def _transpose(part: Part, arrays: Sequence[Any], wide: bool) -> Sequence[Any]:
    assert isinstance(part.step.does, Transpose)
    return [jnp.transpose(arrays[0], part.step.does.order)]


# ---------------------------------------------------------------- repeated


def _learn_broadcast(step: Step, ins: Sequence[Facts], outs: Sequence[Facts]) -> Sequence[Facts]:
    assert isinstance(step.does, Broadcast)
    (facts,), shape = ins, step.does.shape
    axes: list[Constant | None] = [None] * len(shape)
    for axis, part in zip(step.does.axes, facts.constants, strict=True):
        axes[axis] = None if part is None else part.along(shape[axis])
    return [of_axes(shape, outs[0].dtype, axes)]


def _want_broadcast(part: Part) -> Wants:
    assert isinstance(part.step.does, Broadcast)
    pairs = zip(part.ins[0].shape, part.step.does.axes, strict=True)
    return [
        tuple(
            part.keep[axis] if size == len(part.keep[axis]) else np.ones(1, bool)
            for size, axis in pairs
        )
    ]


def _broadcast(part: Part, arrays: Sequence[Any], wide: bool) -> Sequence[Any]:
    assert isinstance(part.step.does, Broadcast)
    thin = [1] * len(part.keep)
    for axis, size in zip(part.step.does.axes, arrays[0].shape, strict=True):
        thin[axis] = size
    return [jnp.broadcast_to(arrays[0].reshape(thin), sizes(part.keep))]


# ---------------------------------------------------------------- chosen along an axis


def _learn_take(step: Step, ins: Sequence[Facts], outs: Sequence[Facts]) -> Sequence[Facts]:
    assert isinstance(step.does, (Take, Fill))
    places, number = step.does.places, np.asarray(_number(step), ins[0].dtype)
    absent = places == NONE
    axes = list[Constant | None]()
    for axis, part in enumerate(ins[0].constants):
        if axis != step.does.axis:
            if part is not None and absent.any():
                part = Constant(part.where & (part.value == number), part.value)
        elif part is not None or absent.any():
            where = np.zeros(ins[0].shape[axis], bool) if part is None else part.where
            value = np.zeros(ins[0].shape[axis], ins[0].dtype) if part is None else part.value
            part = Constant(
                np.where(absent, True, _at(where, places)),
                np.where(absent, number, _at(value, places)),
            )
        axes.append(part)
    return [of_axes(outs[0].shape, outs[0].dtype, axes)]


def _at(vector: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the entries at places; anything where nothing comes from."""
    return vector[np.maximum(places, 0)] if len(vector) else np.zeros(len(places), vector.dtype)


def _number(step: Step) -> Any:
    return step.does.number if isinstance(step.does, Fill) else 0


def _chosen(part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Return the places that are kept, and which slices of the operand these are."""
    assert isinstance(part.step.does, (Take, Fill))
    chosen = part.step.does.places[part.keep[part.step.does.axis]]
    wanted = np.zeros(part.ins[0].shape[part.step.does.axis], bool)
    wanted[chosen[chosen != NONE]] = True
    return chosen, wanted


def _want_take(part: Part) -> Wants:
    assert isinstance(part.step.does, (Take, Fill))
    axis = part.step.does.axis
    _, wanted = _chosen(part)
    return [tuple(wanted if i == axis else keep for i, keep in enumerate(part.keep))]


def _take(part: Part, arrays: Sequence[Any], wide: bool) -> Sequence[Any]:
    assert isinstance(part.step.does, (Take, Fill))
    axis = part.step.does.axis
    chosen, wanted = _chosen(part)
    places = (np.cumsum(wanted) - 1)[np.maximum(chosen, 0)] if len(wanted) else chosen
    array = arrays[0]
    if (chosen == NONE).any():  # behind the last
        fill = [1 if i == axis else size for i, size in enumerate(array.shape)]
        number = jnp.asarray(_number(part.step), array.dtype)
        places = np.where(chosen == NONE, array.shape[axis], places)
        array = jnp.concatenate([array, jnp.broadcast_to(number, fill)], axis)
    return [taken(array, axis, places)]


# ---------------------------------------------------------------- in another shape


def _learn_reshape(step: Step, ins: Sequence[Facts], outs: Sequence[Facts]) -> Sequence[Facts]:
    old, new = ins[0].shape, outs[0].shape
    axes: list[Constant | None] = [None] * len(new)
    for before, after in common_groups(old, new):
        parts = [ins[0].constants[axis] for axis in before]
        if len(before) == len(after) == 1:
            axes[after[0]] = parts[0]
            continue
        flat = by_entry(parts, [old[axis] for axis in before])
        if flat is None:
            continue
        shape = [new[axis] for axis in after]
        where, value = (each.reshape(shape) for each in flat)
        for i, axis in enumerate(after):
            rows = np.moveaxis(where, i, 0).reshape(shape[i], -1)
            numbers = np.moveaxis(value, i, 0).reshape(shape[i], -1)
            same = rows.all(1) & (numbers == numbers[:, :1]).all(1)
            axes[axis] = Constant(same, numbers[:, 0])
    return [of_axes(new, outs[0].dtype, axes)]


def _flat(sets: Sequence[np.ndarray]) -> np.ndarray:
    """Return which places of several axes put into one are in a box."""
    found: np.ndarray = np.ones(1, bool)
    for part in sets:
        found = (found[:, None] & part).ravel()
    return found


def _hull(keep: Sequence[np.ndarray], shape: Sequence[int]) -> Sets:
    """Return the least box of a shape that holds a box of another."""
    flat = _flat(keep).reshape(tuple(shape))
    others = [tuple(j for j in range(len(shape)) if j != i) for i in range(len(shape))]
    return tuple(np.asarray(flat.any(axes)) for axes in others)


def _want_reshape(part: Part) -> Wants:
    old, new = part.ins[0].shape, part.outs[0].shape
    wanted: list[np.ndarray] = [np.ones(0, bool)] * len(old)
    for before, after in common_groups(old, new):
        keep = [part.keep[axis] for axis in after]
        whole = all(each.all() for each in keep)
        shape = [old[axis] for axis in before]
        box = tuple(np.ones(size, bool) for size in shape) if whole else _hull(keep, shape)
        for axis, own in zip(before, box, strict=True):
            wanted[axis] = own
    return [tuple(wanted)]


def _reshape(part: Part, arrays: Sequence[Any], wide: bool) -> Sequence[Any]:
    old, new, array = part.ins[0].shape, part.outs[0].shape, arrays[0]
    (wanted,) = _want_reshape(part)
    assert wanted is not None
    groups = common_groups(old, new)
    narrowed, shape = list[np.ndarray | None](), list[int]()
    for before, after in groups:
        have, keep = [wanted[axis] for axis in before], [part.keep[axis] for axis in after]
        shape.append(math.prod(int(own.sum()) for own in have))
        if all(own.all() for own in have) and all(own.all() for own in keep):
            narrowed.append(None)
        else:
            narrowed.append(places_in(_flat(have), _flat(keep)))
    array = array.reshape(shape)
    for axis, places in enumerate(narrowed):
        if places is not None:
            array = taken(array, axis, places)
    return [array.reshape(sizes(part.keep))]


# ---------------------------------------------------------------- behind each other


def _learn_concatenate(step: Step, ins: Sequence[Facts], outs: Sequence[Facts]) -> Sequence[Facts]:
    assert isinstance(step.does, Concatenate)
    axes = list[Constant | None]()
    for axis in range(len(outs[0].shape)):
        parts = [facts.constants[axis] for facts in ins]
        if axis == step.does.axis:
            whole = [
                Constant(
                    np.zeros(facts.shape[axis], bool), np.zeros(facts.shape[axis], facts.dtype)
                )
                if part is None
                else part
                for facts, part in zip(ins, parts, strict=True)
            ]
            axes.append(Constant(*map(np.concatenate, zip(*whole, strict=True))))
        elif any(part is None for part in parts):
            axes.append(None)
        else:
            first = parts[0]
            assert first is not None
            where = np.logical_and.reduce([p.where & (p.value == first.value) for p in parts if p])
            axes.append(Constant(where, first.value))
    return [of_axes(outs[0].shape, outs[0].dtype, axes)]


def _want_concatenate(part: Part) -> Wants:
    assert isinstance(part.step.does, Concatenate)
    axis, found, start = part.step.does.axis, Wants(), 0
    for facts in part.ins:
        own = part.keep[axis][start : start + facts.shape[axis]]
        start += facts.shape[axis]
        wanted = tuple(own if i == axis else keep for i, keep in enumerate(part.keep))
        found.append(wanted if own.any() else None)
    return found


def _concatenate(part: Part, arrays: Sequence[Any], wide: bool) -> Sequence[Any]:
    assert isinstance(part.step.does, Concatenate)
    return [jnp.concatenate([a for a in arrays if a is not None], part.step.does.axis)]


MOVE_RULES: dict[str, Rule] = {
    "transpose": Rule(_learn_transpose, _want_transpose, _transpose),
    "broadcast": Rule(_learn_broadcast, _want_broadcast, _broadcast),
    "take": Rule(_learn_take, _want_take, _take),
    "fill": Rule(_learn_take, _want_take, _take),
    "reshape": Rule(_learn_reshape, _want_reshape, _reshape),
    "concatenate": Rule(_learn_concatenate, _want_concatenate, _concatenate),
}
"""Rules of steps that move data, by the name of what they do."""

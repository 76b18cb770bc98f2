"""Primitives that move data, each as a movement; and what writes into data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.tracing.arithmetic import Rule, either, mixed
from lap_jax.tracing.builder import GraphBuilder
from lap_jax.tracing.interpreter import out_shape, out_shapes
from lap_jax.tracing.movements import (
    NONE,
    Broadcast,
    Cut,
    Movement,
    Reshape,
    Take,
    Transpose,
    along,
    first,
    piece,
    spread,
)
from lap_jax.tracing.parameters import LARGEST, ParameterRule
from lap_jax.tracing.values import (
    FromParams,
    Traced,
    Value,
    breaks_of,
    joined,
    moved,
    opaque,
    stacked,
    traced,
)

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

Computes: TypeAlias = Sequence[Callable[[], Any] | None]
"""How to compute what goes into an equation; None where that depends on data or is too large."""


# ---------------------------------------------------------------- by what is known before


def _transpose(eqn: JaxprEqn, computes: Computes) -> list[Movement]:
    return [(Transpose(tuple(eqn.params["permutation"])),)]


def _reshape(eqn: JaxprEqn, computes: Computes) -> list[Movement]:
    order = eqn.params["dimensions"]  # of a reshape that takes the axes in another order
    turned: Movement = (Transpose(tuple(order)),) if order is not None else ()
    return [(*turned, Reshape(out_shape(eqn)))]


def _squeeze(eqn: JaxprEqn, computes: Computes) -> list[Movement]:
    return [(Reshape(out_shape(eqn)),)]


def _broadcast(eqn: JaxprEqn, computes: Computes) -> list[Movement]:
    return [(Broadcast(out_shape(eqn), tuple(eqn.params["broadcast_dimensions"])),)]


def _rev(eqn: JaxprEqn, computes: Computes) -> list[Movement]:
    movement: Movement = ()
    for axis in eqn.params["dimensions"]:
        shape = _in_shape(eqn)
        movement += piece(shape, axis, shape[axis] - 1, -1, -1)
    return [movement]


def _tile(eqn: JaxprEqn, computes: Computes) -> list[Movement]:
    sizes = zip(_in_shape(eqn), eqn.params["reps"], strict=True)
    return [
        tuple(
            Take(np.tile(np.arange(size), count), axis)
            for axis, (size, count) in enumerate(sizes)
            if count != 1
        )
    ]


def _slice(eqn: JaxprEqn, computes: Computes) -> list[Movement]:
    start, stop = eqn.params["start_indices"], eqn.params["limit_indices"]
    return [(Cut(tuple(start), tuple(stop), tuple(eqn.params["strides"] or (1,) * len(start))),)]


def _split(eqn: JaxprEqn, computes: Computes) -> list[Movement]:
    axis, found, start = eqn.params["axis"], list[Movement](), 0
    for size in eqn.params["sizes"]:
        found.append(piece(_in_shape(eqn), axis, start, start + size))
        start += size
    return found


def _unstack(eqn: JaxprEqn, computes: Computes) -> list[Movement]:
    shape, axis = _in_shape(eqn), eqn.params["axis"]
    return [
        (*piece(shape, axis, place, place + 1), Reshape(own))
        for place, own in enumerate(out_shapes(eqn))
    ]


def _pad(eqn: JaxprEqn, computes: Computes) -> list[Movement]:
    steps = []
    for axis, (low, high, inner) in enumerate(eqn.params["padding_config"]):
        if low == high == inner == 0:
            continue
        size = _in_shape(eqn)[axis]
        places = np.full((size - 1) * (inner + 1) + 1 if size else 0, NONE)
        places[:: inner + 1] = np.arange(size)
        fill = [np.full(max(count, 0), NONE) for count in (low, high)]
        places = np.concatenate([fill[0], places, fill[1]])
        steps.append(Take(places[max(-low, 0) : len(places) - max(-high, 0)], axis))
    return [tuple(steps)]


def _dynamic_slice(eqn: JaxprEqn, computes: Computes) -> list[Movement] | None:
    starts = [int(compute()) for compute in computes[1:] if compute is not None]
    old, sizes = _in_shape(eqn), eqn.params["slice_sizes"]
    if len(starts) < len(old):
        return None
    start = tuple(
        min(max(start, 0), size - length)
        for start, size, length in zip(starts, old, sizes, strict=True)
    )
    stop = tuple(begin + length for begin, length in zip(start, sizes, strict=True))
    return [(Cut(start, stop, (1,) * len(old)),)]


def _gather(eqn: JaxprEqn, computes: Computes) -> list[Movement] | None:
    """Entries by constant indices: the places of a gather of places, along one axis or of all."""
    index, old, shape = computes[1], _in_shape(eqn), out_shape(eqn)
    dims, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if index is None:
        return None
    cut = [axis for axis in range(len(old)) if sizes[axis] != old[axis]]
    if len(cut) == 1 and [*dims.collapsed_slice_dims] == cut and not dims.operand_batching_dims:
        (axis,) = cut
        places = along(np.arange(old[axis]), axis, len(old))
        found = _gathered(eqn, places, index(), (1,) * len(old))
        others = [i for i in range(len(old)) if i != axis]
        batch = [i for i in range(len(shape)) if i not in dims.offset_dims]
        order = [*batch, *dims.offset_dims]
        full = tuple(shape[i] for i in order)
        return [
            (
                Take(found.ravel(), axis),
                Transpose((axis, *others)),
                Reshape(full),
                Transpose(tuple(np.argsort(order).tolist())),
            )
        ]
    size = math.prod(old)
    if size > LARGEST * 16:
        return None
    found = _gathered(eqn, np.arange(size).reshape(old), index(), sizes)
    return [(Reshape((size,)), Take(found.ravel(), 0), Reshape(shape))]


def _gathered(
    eqn: JaxprEqn, places: np.ndarray, index: Any, sizes: Sequence[int]
) -> np.ndarray:  # fmt: skip
    with jax.ensure_compile_time_eval():
        params = eqn.params | {"fill_value": NONE, "slice_sizes": tuple(sizes)}
        operand = jnp.asarray(places, jnp.int32)
        return np.asarray(eqn.primitive.bind(operand, jnp.asarray(index), **params))


MOVING: dict[str, Callable[[JaxprEqn, Computes], list[Movement] | None]] = {
    "transpose": _transpose,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "broadcast_in_dim": _broadcast,
    "rev": _rev,
    "tile": _tile,
    "slice": _slice,
    "split": _split,
    "unstack": _unstack,
    "pad": _pad,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
}
"""How the first operand of a primitive moves to each of the results; None if data says how."""


# ---------------------------------------------------------------- by an index from the data


def _slice_anywhere(eqn: JaxprEqn) -> tuple[list[int], Movement]:
    old, shape = _in_shape(eqn), out_shape(eqn)
    axes = [axis for axis, size in enumerate(shape) if size != old[axis]]
    return axes, spread(old, axes, shape)


def _gather_anywhere(eqn: JaxprEqn) -> tuple[list[int], Movement]:
    dims, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    old = _in_shape(eqn)
    gone = {*dims.collapsed_slice_dims, *dims.operand_batching_dims}
    axes = [axis for axis in range(len(old)) if sizes[axis] != old[axis] or axis in gone]
    thin = tuple(1 if axis in axes else old[axis] for axis in range(len(old)) if axis not in gone)
    return axes, (first(old, axes), Reshape(thin), Broadcast(out_shape(eqn), dims.offset_dims))


ANYWHERE: dict[str, Callable[[JaxprEqn], tuple[list[int], Movement]]] = {
    "dynamic_slice": _slice_anywhere,
    "gather": _gather_anywhere,
}
"""Axes along which a primitive takes what data says, and its movement if nothing changes there."""


# ---------------------------------------------------------------- rules


def moves_of(eqn: JaxprEqn, values: Sequence[Value]) -> list[Movement] | None:
    """Return how the first value moves to each result of a primitive; None if that is not known."""
    name, operand = eqn.primitive.name, values[0]
    if name in ANYWHERE and isinstance(operand, Traced):
        axes, movement = ANYWHERE[name](eqn)
        if operand.is_constant(axes):
            return [movement]
    computes = [value.compute if isinstance(value, FromParams) else None for value in values]
    return MOVING[name](eqn, computes)


def _move(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    movements = moves_of(eqn, values)
    if movements is None and isinstance(values[0], Traced) and traced(values[1:]):
        one = mixed(builder, eqn, values[0], ANYWHERE[eqn.primitive.name](eqn)[0])
        if one is not None:  # whichever it is
            values = [one.bent(), *values[1:]]
            movements = moves_of(eqn, values)
    if movements is None:
        channels = isinstance(values[0], Traced)
        what = "it takes channels" if channels else "parameters are taken"
        return builder.barrier(eqn, values, f"{what} by an index from the data")
    found = []
    for movement, shape in zip(movements, out_shapes(eqn), strict=True):
        value = moved(values[0], movement, shape)
        if isinstance(value, Traced):
            value = value._replace(breaks=value.breaks | breaks_of(values[1:]))
        found.append(value)
    return found


def _move_parameters(eqn: JaxprEqn, values: list[FromParams]) -> Sequence[Value]:
    movements = moves_of(eqn, values)
    constants = all(value.is_constant for value in values[1:])
    if movements is None or not constants or values[0].is_constant:
        return [opaque(values, shape) for shape in out_shapes(eqn)]
    pairs = zip(movements, out_shapes(eqn), strict=True)
    return [moved(values[0], movement, shape) for movement, shape in pairs]


def _concatenate(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    return [joined(values, eqn.params["dimension"])]


def _stack(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    return [stacked(values, eqn.params["axis"])]


def _update(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    """`dynamic_update_slice`, such as a cache's: what is written, where channels do not change."""
    operand, update, shape = values[0], values[1], values[0].shape
    if isinstance(update, FromParams):
        return [operand if isinstance(operand, Traced) else opaque(values, shape)]
    axes = [axis for axis, size in enumerate(update.shape) if size != shape[axis]]
    if not update.is_constant(axes):
        return builder.barrier(eqn, values, "it writes into some of the channels")
    grown = moved(update, spread(update.shape, axes, shape), shape)
    return [either(builder, eqn, [operand, grown])]


def _scatter(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    """What is written or added at places, such as messages at nodes, where channels stay whole."""
    operand, index, update = values[:3]
    shape = operand.shape
    if isinstance(update, FromParams):
        if isinstance(operand, Traced):
            return [operand]
        if operand.is_constant and update.is_constant:  # a count, which passes no channel on
            return [Traced(shape, breaks=breaks_of([index]))]
        return builder.barrier(eqn, values, "it writes parameters at an index from the data")
    dims = eqn.params["dimension_numbers"]
    taken = {*dims.inserted_window_dims, *dims.operand_batching_dims}
    kept = [axis for axis in range(len(shape)) if axis not in taken]
    window = list(dims.update_window_dims)
    gone = [axis for axis in range(len(update.shape)) if axis not in window]
    partial = [
        axis for axis, at in zip(window, kept, strict=True) if update.shape[axis] != shape[at]
    ]
    if isinstance(index, Traced) and update.is_constant(partial):  # it may be any place
        update = mixed(builder, eqn, update, gone) or update
    if not update.is_constant([*gone, *partial]):
        return builder.barrier(eqn, values, "it writes into some of the channels")
    thin = first(update.shape, [*gone, *partial])
    sizes = tuple(thin.stop[axis] for axis in window)
    movement: Movement = (
        thin,
        Transpose((*window, *gone)),
        Reshape(sizes),
        Broadcast(shape, tuple(kept)),
    )
    grown = moved(update, movement, shape)
    found = either(builder, eqn, [operand, grown])
    assert isinstance(found, Traced)
    return [found._replace(breaks=found.breaks | breaks_of([index]))]


SCATTERING = ("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max")
MOVEMENTS: dict[str, Rule] = {
    **dict.fromkeys(SCATTERING, _scatter),
    **dict.fromkeys(MOVING, _move),
    "concatenate": _concatenate,
    "stack": _stack,
    "dynamic_update_slice": _update,
}
MOVEMENTS_OF_PARAMETERS: dict[str, ParameterRule] = dict.fromkeys(MOVING, _move_parameters)


def _in_shape(eqn: JaxprEqn) -> tuple[int, ...]:
    """Return the shape of the first operand."""
    return tuple(eqn.invars[0].aval.shape)  # type: ignore[attr-defined]

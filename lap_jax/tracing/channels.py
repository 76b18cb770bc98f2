"""Which channels of which layer an activation holds, element by element.

Channel numbers are arrays of the activation's shape, with stride 0 along axes on which they do not
change: moving data is then NumPy's own slicing and transposing, and a batch or a sequence costs
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lap_jax.tracing.views import Power, View, common_groups

NONE = -1  # the number of no channel


class Route(NamedTuple):
    """What one layer or junction brings to an activation.

    Attributes:
      node: its name.
      ids: which of its channels each element holds, int32; `NONE` where it holds none.
      scale: a constant that multiplies it.
      linear: whether it came through linear operations alone.
      pool: by how much strides have thinned its positions out.
    """

    node: str
    ids: np.ndarray
    scale: float = 1.0
    linear: bool = True
    pool: int = 1


class Loss(NamedTuple):
    """Channels that an operation mixed in a way that says nothing of a single one."""

    node: str
    primitive: str
    where: str
    why: str


class Act(NamedTuple):
    """A value that depends on the network's input.

    Attributes:
      shape: of the value.
      routes: where its elements come from; where two overlap, it is their sum.
      gain: powers of parameters that multiply a value without routes.
      unit: whether it brings something that has no layer, such as the network's input.
      losses: what it depends on, but not channel by channel.
    """

    shape: tuple[int, ...]
    routes: tuple[Route, ...] = ()
    gain: tuple[Power, ...] = ()
    unit: bool = False
    losses: frozenset[Loss] = frozenset()


def held(ids: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return small ids broadcast to the full shape, as a view."""
    return np.broadcast_to(ids, shape)


def small(ids: np.ndarray) -> np.ndarray:
    """Return the ids with size 1 along the axes on which they do not change."""
    return ids[tuple(slice(1 if by == 0 else None) for by in ids.strides)]


def constant(ids: np.ndarray, axes: Sequence[int]) -> bool:
    """Return whether the ids do not change along the axes."""
    ids = small(ids)
    return all(
        ids.shape[axis] <= 1 or bool((ids == ids.take([0], axis)).all())
        for axis in (axis % ids.ndim for axis in axes)
    )


def first(ids: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Return the ids at the first place of ``axes``, which keep size 1."""
    return ids[tuple(slice(1 if axis in axes else None) for axis in range(ids.ndim))]


def reshaped(ids: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Reshape; axes along which nothing changes stay unwritten."""
    thin, short = list(ids.shape), list(shape)
    for old, new in common_groups(ids.shape, shape):
        if all(ids.strides[axis] == 0 or ids.shape[axis] == 1 for axis in old):
            for axis in old:
                thin[axis] = 1
            for axis in new:
                short[axis] = 1
    cut = ids[tuple(slice(1 if size == 1 else None) for size in thin)]
    return held(cut.reshape(short), shape)


def broadcast(ids: np.ndarray, shape: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """Put the axes of ``ids`` at ``axes`` of a larger shape."""
    thin = [1] * len(shape)
    for axis, size in zip(axes, ids.shape, strict=True):
        thin[axis] = size
    return held(reshaped(ids, thin), shape)


def joined(parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Concatenate along an axis; other axes stay unwritten where no part changes along them."""
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    cut = [
        slice(1 if i != axis and all(part.strides[i] == 0 for part in parts) else None)
        for i in range(len(shape))
    ]
    return held(np.concatenate([part[tuple(cut)] for part in parts], axis), shape)


def nothing(shape: Sequence[int]) -> np.ndarray:
    """Return ids of no channel at all."""
    return held(np.full((1,) * len(shape), NONE, np.int32), shape)


def numbered(shape: Sequence[int], axes: Sequence[int], sizes: Sequence[int]) -> np.ndarray:
    """Number the channels of an output, row-major over ``axes`` of ``sizes``, as listed."""
    ids = np.zeros((1,) * len(shape), np.int32)
    for axis, size in zip(axes, sizes, strict=True):
        steps = np.arange(size, dtype=np.int32)
        ids = ids * size + steps.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return held(ids, shape)


def distinct(columns: Sequence[np.ndarray], own: int) -> tuple[np.ndarray, np.ndarray]:
    """Number the different combinations of several numbers that elements have.

    Args:
      columns: arrays of one shape.
      own: how many of the columns are channels: where all of these hold none, so does the result.

    Returns:
      The number of each element's combination, in order of first appearance, of the shape of the
      columns; and the combinations, ``[n, columns]``.
    """
    shape = columns[0].shape
    cut = tuple(
        slice(1 if all(column.strides[axis] == 0 for column in columns) else None)
        for axis in range(len(shape))
    )
    thin = [column[cut] for column in columns]
    table = np.stack([column.ravel() for column in thin], 1)
    held_any = (table[:, :own] != NONE).any(1)
    filled = table[held_any]
    numbers = np.full(len(table), NONE, np.int32)
    if len(filled) and (np.diff(filled[:, 0]) > 0).all():
        rows, numbers[held_any] = filled, np.arange(len(filled))
    else:
        rows, start, inverse = np.unique(filled, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(start)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        rows, numbers[held_any] = rows[order], rank[inverse.ravel()]
    return held(numbers.reshape(thin[0].shape), shape), rows


def moved(
    act: Act,
    shape: tuple[int, ...],
    ids: Callable[[np.ndarray], np.ndarray],
    view: Callable[[View], View | None],
) -> Act:
    """Apply a movement of data to an activation, which channel numbers and views both follow."""
    gain = [power._replace(view=view(power.view)) for power in act.gain]  # type: ignore[arg-type]
    return act._replace(
        shape=shape,
        routes=tuple(
            route._replace(ids=new)
            for route in act.routes
            if (new := ids(route.ids)).size == 0 or (small(new) != NONE).any()
        ),
        gain=tuple(power for power in gain if power.view is not None),
    )

"""Channel numbers: arrays of an activation's shape.

They have stride 0 along axes on which they do not change: moving data is then NumPy's own slicing
and transposing, and a batch or a sequence costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lap_jax.tracing.movements import (
    NONE,
    Moves,
    along,
    array_moves,
    common_groups,
    thin_shape,
)


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


def at_most_one(ids: np.ndarray, axis: int) -> bool:
    """Return whether there is no more than one channel along an axis, beside none at all."""
    ids = small(ids)
    return bool(((ids == ids.max(axis, keepdims=True)) | (ids == NONE)).all())


def holds_any(ids: np.ndarray) -> bool:
    """Return whether there is a channel among the ids, or no element at all."""
    return ids.size == 0 or bool((small(ids) != NONE).any())


def broadcast(ids: np.ndarray, shape: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """Put the axes of ``ids`` at ``axes`` of a larger shape."""
    return held(reshape(ids, thin_shape(ids.shape, shape, axes)), shape)


def reshape(ids: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Reshape; axes along which nothing changes stay unwritten."""
    thin, short = list(ids.shape), list(shape)
    for old, new in common_groups(ids.shape, shape):
        if all(ids.strides[axis] == 0 or ids.shape[axis] == 1 for axis in old):
            for axis in old:
                thin[axis] = min(ids.shape[axis], 1)
            for axis in new:
                short[axis] = min(shape[axis], 1)
    cut = ids[tuple(slice(1 if size == 1 else None) for size in thin)]
    return held(cut.reshape(short), shape)


def take(ids: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """Take places along an axis.

    Where nothing changes along it, what is filled in counts as the same: it stays unwritten.
    """
    if ids.strides[axis] == 0 and ids.shape[axis] > 0:
        shape = list(ids.shape)
        shape[axis] = len(places)
        return held(ids[(slice(None),) * axis + (slice(1),)], shape)
    taken = ids.take(np.maximum(places, 0), axis)
    return np.where(along(places != NONE, axis, ids.ndim), taken, np.int32(NONE))


def concatenate(parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Concatenate along an axis; other axes stay unwritten where no part changes along them."""
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    cut = [
        slice(1 if i != axis and all(part.strides[i] == 0 for part in parts) else None)
        for i in range(len(shape))
    ]
    return held(np.concatenate([part[tuple(cut)] for part in parts], axis), shape)


_ARRAYS = array_moves(np)
CHANNELS: Moves[np.ndarray] = Moves(
    _ARRAYS.transpose, broadcast, _ARRAYS.cut, reshape, take, concatenate
)
"""What movements do to channel numbers."""


def nothing(shape: Sequence[int]) -> np.ndarray:
    """Return ids of no channel at all."""
    return held(np.full((1,) * len(shape), NONE, np.int32), shape)


def numbered(shape: Sequence[int], axes: Sequence[int], sizes: Sequence[int]) -> np.ndarray:
    """Number the channels of an output, row-major over ``axes`` of ``sizes``, as listed."""
    ids = np.zeros((1,) * len(shape), np.int32)
    for axis, size in zip(axes, sizes, strict=True):
        ids = ids * size + along(np.arange(size, dtype=np.int32), axis, len(shape))
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

"""Views of parameters: which entries of a leaf a value shows, as strides."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lap_jax.tracing.movements import Moves, along, common_groups


class View(NamedTuple):
    """Entries of a leaf, as strides over its raveled array; nothing is held in memory.

    Attributes:
      leaf: path of the leaf.
      shape, strides: an axis of size ``shape[i]`` advances ``strides[i]`` entries a step.
      offset: the first entry.
    """

    leaf: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0


def whole(leaf: str, shape: Sequence[int]) -> View:
    """Return a leaf as it is."""
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return View(leaf, tuple(shape), strides)


def entries(view: View, axes: Sequence[int]) -> np.ndarray:
    """Return which entries of the leaf a view shows along ``axes``; other axes have size 1."""
    found = np.full((1,) * len(view.shape), view.offset, np.int64)
    for axis in axes:
        steps = np.arange(view.shape[axis]) * view.strides[axis]
        found = found + along(steps, axis, len(view.shape))
    return found


def size(view: View) -> int:
    """Return how many places have an entry of their own: none does along axes that repeat."""
    pairs = zip(view.shape, view.strides, strict=True)
    return math.prod(size for size, by in pairs if by or size == 0)


def unturned(view: View, axes: Sequence[int]) -> View:
    """Return the view with those of the axes that run backwards turned round."""
    strides, offset = list(view.strides), view.offset
    for axis in axes:
        if strides[axis] < 0:
            offset += (view.shape[axis] - 1) * strides[axis]
            strides[axis] = -strides[axis]
    return view._replace(strides=tuple(strides), offset=offset)


def transpose(view: View, order: Sequence[int]) -> View:
    """Return the view with its axes in another order."""
    return view._replace(
        shape=tuple(view.shape[axis] for axis in order),
        strides=tuple(view.strides[axis] for axis in order),
    )


def broadcast(view: View, shape: Sequence[int], axes: Sequence[int]) -> View:
    """Return the view in a larger shape; its axes become ``axes`` of it."""
    strides = [0] * len(shape)
    for axis, size, stride in zip(axes, view.shape, view.strides, strict=True):
        strides[axis] = stride if size > 1 else 0
    return view._replace(shape=tuple(shape), strides=tuple(strides))


def cut(view: View, start: Sequence[int], stop: Sequence[int], step: Sequence[int]) -> View:
    """Return ``view[start:stop:step]``; a negative step reverses its axis."""
    shape = tuple(len(range(*part)) for part in zip(start, stop, step, strict=True))
    offset = view.offset + sum(first * by for first, by in zip(start, view.strides, strict=True))
    strides = tuple(by * stride for by, stride in zip(step, view.strides, strict=True))
    return view._replace(shape=shape, strides=strides, offset=offset)


def reshape(view: View, shape: Sequence[int]) -> View | None:
    """Return the view in another shape; None if no strides tell it."""
    strides = [0] * len(shape)
    for old, new in common_groups(view.shape, shape):
        inner = _merged([(view.shape[axis], view.strides[axis]) for axis in old])
        if inner is None:
            return None
        for axis in reversed(new):
            strides[axis] = inner
            inner *= shape[axis]
    return view._replace(shape=tuple(shape), strides=tuple(strides))


def take(view: View, places: np.ndarray, axis: int) -> View | None:
    """Return the view at places along an axis; None unless these are a slice."""
    if not len(places):
        return None
    start, steps = int(places[0]), np.diff(places)
    step = int(steps[0]) if len(steps) else 1
    if places.min() < 0 or not (steps == step).all():
        return None
    shape, strides = list(view.shape), list(view.strides)
    shape[axis], strides[axis] = len(places), step * view.strides[axis]
    offset = view.offset + start * view.strides[axis]
    return view._replace(shape=tuple(shape), strides=tuple(strides), offset=offset)


def concatenate(views: Sequence[View], axis: int) -> View | None:
    """Return the views side by side along an axis: not told, unless there is but one."""
    return views[0] if len(views) == 1 else None


VIEWS: Moves[Any] = Moves(transpose, broadcast, cut, reshape, take, concatenate)
"""What movements do to views; None where no strides tell it."""


def _merged(axes: Sequence[tuple[int, int]]) -> int | None:
    """Return the stride of several axes, of ``(size, stride)``, taken as one; or None."""
    axes = [axis for axis in axes if axis[0] > 1]
    if not axes:
        return 0
    for (_, outer), (size, inner) in itertools.pairwise(axes):
        if outer != size * inner:
            return None
    return axes[-1][1]

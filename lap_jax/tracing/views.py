"""Values that depend on the parameters alone: views of leaves, and products of their powers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


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
        found = found + steps.reshape([-1 if i == axis else 1 for i in range(len(view.shape))])
    return found


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


def _merged(axes: Sequence[tuple[int, int]]) -> int | None:
    """Return the stride of several axes taken as one, or None."""
    axes = [axis for axis in axes if axis[0] > 1]
    if not axes:
        return 0
    for (_, outer), (size, inner) in itertools.pairwise(axes):
        if outer != size * inner:
            return None
    return axes[-1][1]


def common_groups(
    old: Sequence[int], new: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Split two shapes of one size into the least runs of axes that have equal products.

    Axes of size one go with the run before them; those in front make a run of their own.
    """
    groups: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first_i, first_j = i, j
        left = right = 1
        while True:
            if left == right and (i > first_i or j > first_j):
                break
            if left <= right and i < len(old):
                left, i = left * old[i], i + 1
            elif j < len(new):
                right, j = right * new[j], j + 1
            else:
                left, i = left * old[i], i + 1
        groups.append((tuple(range(first_i, i)), tuple(range(first_j, j))))
    return groups


class Power(NamedTuple):
    """``|leaf + shift| ** power``, entry by entry."""

    view: View
    power: float = 1.0
    shift: float = 0.0


class Known(NamedTuple):
    """A value that does not depend on the network's input.

    Attributes:
      shape: of the value.
      powers: it is their product times ``scale``; None where it is no such product.
      scale: a number.
      compute: gives the value of a constant, which no parameter is part of.
      leaves: paths of the parameters, where ``powers`` do not tell them.
    """

    shape: tuple[int, ...]
    powers: tuple[Power, ...] | None = ()
    scale: float = 1.0
    compute: Callable[[], Any] | None = None
    leaves: frozenset[str] = frozenset()

    @property
    def kernel(self) -> View | None:
        """The view of a leaf that this is, up to a constant; None if it is something else."""
        if self.powers and len(self.powers) == 1 and self.powers[0][1:] == (1.0, 0.0):
            return self.powers[0].view
        return None

    @property
    def is_constant(self) -> bool:
        """Whether no parameter is part of it."""
        return self.powers == ()


def leaves(known: Known) -> frozenset[str]:
    """Return the paths of the parameters that a value depends on."""
    return known.leaves | {power.view.leaf for power in known.powers or ()}


def size_of(known: Known) -> float:
    """Return the root of the mean square of a constant."""
    if known.compute is None:
        return abs(known.scale)
    values = np.asarray(known.compute())
    if values.dtype.kind not in "biuf" and values.dtype.name != "bfloat16":
        return 1.0
    values = np.abs(values.astype(np.float64))
    values = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(values**2))) if values.size else 1.0


def moved(known: Known, change: Callable[[View], View | None], shape: tuple[int, ...]) -> Known:
    """Apply a movement of data to a value; it is no product of powers any more where that fails."""
    if known.powers is None:
        return known._replace(shape=shape)
    views = [change(power.view) for power in known.powers]
    if any(view is None for view in views):
        return Known(shape, None, leaves=leaves(known))
    powers = tuple(
        power._replace(view=view)
        for power, view in zip(known.powers, views, strict=True)
        if view is not None
    )
    return Known(shape, powers, known.scale)

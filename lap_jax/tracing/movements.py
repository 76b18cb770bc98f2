"""How data moves: five steps, and what each does to one kind of value.

A primitive that moves data is written once, as a `Movement`. Whatever follows data through a model
says what the steps do to its own values, as `Moves`: arrays here, views of parameters in
`views`, channel numbers in `channels`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np

V = TypeVar("V")

NONE = -1
"""The place that nothing comes from, and the number of no channel."""


class Transpose(NamedTuple):
    """Axis ``i`` becomes what axis ``order[i]`` was."""

    order: tuple[int, ...]


class Broadcast(NamedTuple):
    """Axis ``i`` becomes axis ``axes[i]`` of ``shape``; what has size one is repeated."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]


class Cut(NamedTuple):
    """``[start:stop:step]``, an entry an axis; with a negative step, -1 stops before nothing."""

    start: tuple[int, ...]
    stop: tuple[int, ...]
    step: tuple[int, ...]


class Reshape(NamedTuple):
    """Another shape, row by row."""

    shape: tuple[int, ...]


class Take(NamedTuple):
    """The places to be put along an axis, in their order; `NONE` for what is filled in."""

    places: np.ndarray
    axis: int


Step: TypeAlias = Transpose | Broadcast | Cut | Reshape | Take
Movement: TypeAlias = tuple[Step, ...]


class Moves(NamedTuple, Generic[V]):
    """What movements do to one kind of value.

    Attributes:
      transpose, broadcast, cut, reshape, take: ``(value, *fields of the step) -> value``.
      concatenate: ``(values, axis) -> value``.
    """

    transpose: Callable[[V, Sequence[int]], V]
    broadcast: Callable[[V, Sequence[int], Sequence[int]], V]
    cut: Callable[[V, Sequence[int], Sequence[int], Sequence[int]], V]
    reshape: Callable[[V, Sequence[int]], V]
    take: Callable[[V, np.ndarray, int], V]
    concatenate: Callable[[Sequence[V], int], V]


def move(moves: Moves[V], value: V, movement: Movement) -> V:
    """Apply a movement to a value; None, which says that it cannot be told, stays None."""
    for step in movement:
        if value is None:
            break
        match step:
            case Transpose():
                value = moves.transpose(value, *step)
            case Broadcast():
                value = moves.broadcast(value, *step)
            case Cut():
                value = moves.cut(value, *step)
            case Reshape():
                value = moves.reshape(value, *step)
            case Take():
                value = moves.take(value, *step)
    return value


def array_moves(xp: Any) -> Moves[Any]:
    """Return what movements do to arrays; what is filled in is zero.

    Args:
      xp: `numpy` or `jax.numpy`.
    """

    def broadcast(array: Any, shape: Sequence[int], axes: Sequence[int]) -> Any:
        return xp.broadcast_to(array.reshape(thin_shape(array.shape, shape, axes)), shape)

    def take(array: Any, places: np.ndarray, axis: int) -> Any:
        taken = xp.take(array, np.maximum(places, 0), axis)
        if (places != NONE).all():
            return taken
        return xp.where(along(places != NONE, axis, array.ndim), taken, np.zeros((), array.dtype))

    return Moves(
        xp.transpose,
        broadcast,
        lambda array, start, stop, step: array[slices(start, stop, step)],
        xp.reshape,
        take,
        xp.concatenate,
    )


# ---------------------------------------------------------------- movements of several steps


def piece(
    shape: Sequence[int], axis: int, start: int, stop: int, step: int = 1
) -> tuple[Cut]:  # fmt: skip
    """Return the movement ``[start:stop:step]`` along one axis of a value of this shape."""
    on = [i == axis for i in range(len(shape))]
    return (
        Cut(
            tuple(start if own else 0 for own in on),
            tuple(stop if own else size for own, size in zip(on, shape, strict=True)),
            tuple(step if own else 1 for own in on),
        ),
    )


def first(shape: Sequence[int], axes: Sequence[int]) -> Cut:
    """Return the step to the first place of ``axes``, which keep size 1."""
    stop = tuple(min(size, 1) if axis in axes else size for axis, size in enumerate(shape))
    return Cut((0,) * len(stop), stop, (1,) * len(stop))


def spread(old: Sequence[int], axes: Sequence[int], new: Sequence[int]) -> Movement:
    """Return how a value moves of which nothing changes along ``axes``, where these get new sizes.

    Its first place stands for all: of a window, or of a slice that begins somewhere.
    """
    return first(old, axes), Broadcast(tuple(new), tuple(range(len(new))))


def without(
    old: Sequence[int], gone: Sequence[int], new: Sequence[int], at: Sequence[int],
    order: Sequence[int] | None = None,
) -> Movement:  # fmt: skip
    """Return how a value moves of which nothing changes along axes that are ``gone`` afterwards.

    Args:
      old, new: shapes.
      gone: axes of ``old``.
      at: where in ``new`` the others are.
      order: the others, as ``at`` lists them; None: as they are.
    """
    order = [axis for axis in range(len(old)) if axis not in gone] if order is None else order
    return (
        first(old, gone),
        Transpose((*order, *gone)),
        Reshape(tuple(old[axis] for axis in order)),
        Broadcast(tuple(new), tuple(at)),
    )


def step_of(shape: Sequence[int], step: int) -> Movement:
    """Return the movement ``[step]``."""
    return *piece(shape, 0, step, step + 1), Reshape(tuple(shape[1:]))


# ---------------------------------------------------------------- shapes


def step_shape(shape: Sequence[int], step: Step) -> tuple[int, ...]:
    """Return the shape of a value behind a step."""
    match step:
        case Transpose():
            return tuple(shape[axis] for axis in step.order)
        case Cut():
            return tuple(len(range(*part)) for part in zip(*step, strict=True))
        case Take():
            return tuple(
                len(step.places) if axis == step.axis else size for axis, size in enumerate(shape)
            )
        case _:
            return step.shape


def along(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """Return a vector as an array of ``ndim`` axes, along one of them."""
    return values.reshape([-1 if i == axis else 1 for i in range(ndim)])


def thin_shape(old: Sequence[int], new: Sequence[int], axes: Sequence[int]) -> list[int]:
    """Return the old sizes at ``axes`` of a shape as long as the new one, and ones elsewhere."""
    thin = [1] * len(new)
    for axis, size in zip(axes, old, strict=True):
        thin[axis] = size
    return thin


def slices(
    start: Sequence[int], stop: Sequence[int], step: Sequence[int]
) -> tuple[slice, ...]:  # fmt: skip
    """Return a cut as NumPy indexes: there a stop of -1 is the last place."""
    return tuple(
        slice(first, None if last < 0 else last, by)
        for first, last, by in zip(start, stop, step, strict=True)
    )


def common_groups(
    old: Sequence[int], new: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Split two shapes of one size into the least runs of axes that have equal products.

    Axes of size one make runs of their own, but for those that come last in a longer run.
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

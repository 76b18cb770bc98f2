"""Which slices of an array there are, a set an axis, and arrays brought from set to set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from lap_jax.tracing.movements import along

Sets: TypeAlias = tuple[np.ndarray, ...]
"""Truth values an axis: the slices that there are. Their product is a box."""


def everything(shape: Sequence[int]) -> Sets:
    """Return the sets of a whole array."""
    return tuple(np.ones(size, bool) for size in shape)


def union(a: Sets | None, b: Sets | None) -> Sets | None:
    """Return the least box that holds both; None is nothing."""
    if a is None or b is None:
        return b if a is None else a
    return tuple(one | other for one, other in zip(a, b, strict=True))


def within(a: Sets, b: Sets) -> bool:
    """Return whether one box lies in another."""
    return all(bool((~one | other).all()) for one, other in zip(a, b, strict=True))


def is_empty(sets: Sets) -> bool:
    """Return whether a box holds nothing."""
    return any(not part.any() for part in sets)


def sizes(sets: Sets) -> tuple[int, ...]:
    """Return the shape of a box."""
    return tuple(int(part.sum()) for part in sets)


def places_in(have: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return where in the slices of a set those of another are; both ascend."""
    return (np.cumsum(have) - 1)[np.flatnonzero(wanted)]


def taken(array: Any, axis: int, places: np.ndarray) -> Any:
    """Return ``array`` at places along an axis; what lies in a row is sliced, not gathered."""
    size = array.shape[axis]
    if len(places) == size and (places == np.arange(size)).all():
        return array
    if isinstance(array, np.ndarray):
        return np.take(array, places, axis)
    steps = np.diff(places)
    if len(places) and (steps == 1).all():
        index = [slice(None)] * array.ndim
        index[axis] = slice(int(places[0]), int(places[-1]) + 1)
        return array[tuple(index)]
    return jnp.take(array, places, axis, indices_are_sorted=bool((steps > 0).all()), mode="clip")


def brought(
    array: Any, have: Sets, want: Sets, fill: Sequence[np.ndarray | None]
) -> Any:  # fmt: skip
    """Return the slices of an array that are wanted.

    Args:
      array: the slices in ``have``.
      have, want: of each axis.
      fill: of each axis, what a slice that is not there holds throughout; None: zero.
    """
    for axis, (own, wanted) in enumerate(zip(have, want, strict=True)):
        if not (wanted & ~own).any():
            array = taken(array, axis, places_in(own, wanted))
            continue
        missing = np.flatnonzero(wanted & ~own)
        number = fill[axis]
        values = np.zeros(len(missing)) if number is None else number[missing]
        shape = [len(missing) if i == axis else size for i, size in enumerate(array.shape)]
        there = np.flatnonzero(own)
        filled = jnp.broadcast_to(
            jnp.asarray(along(np.asarray(values), axis, array.ndim), array.dtype), shape
        )
        if not len(there):
            array = filled
            continue
        order = np.argsort(np.concatenate([there, missing]), kind="stable")
        found = np.concatenate([there, missing])[order]
        array = taken(jnp.concatenate([array, filled], axis), axis, order[wanted[found]])
    return array

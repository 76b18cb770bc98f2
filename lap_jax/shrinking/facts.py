"""What is known of a value before any input is: slices that hold one number, or all of it.

A value that depends on the inputs is known by its axes: slice ``i`` holds one number throughout,
whatever the inputs, or varies. One that is made of parameters and constants alone is known as an
array, entry by entry. Of a network that is to be trained on, only pruned entries are fixed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lap_jax.tracing.movements import along


class Constant(NamedTuple):
    """Along one axis, the slices that hold one number: ``where`` they are, and which ``value``."""

    where: np.ndarray
    value: np.ndarray

    def along(self, size: int) -> Constant:
        """Return the slices of an axis of this size, along which a single one is repeated."""
        if len(self.where) == size:
            return self
        return Constant(np.repeat(self.where, size), np.repeat(self.value, size))


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a value.

    Attributes:
      shape, dtype: of the value.
      axes: of each axis its constant slices, None for none; of a known array see `constants`.
      array: the value itself, with size one along axes on which it does not change; None if it
        depends on the inputs.
      fixed: entries that training does not change, as ``array``; None: all.
      leaves: whether it is made of parameters.
    """

    shape: tuple[int, ...]
    dtype: Any
    axes: tuple[Constant | None, ...] = ()
    array: np.ndarray | None = None
    fixed: np.ndarray | None = None
    leaves: bool = False

    @functools.cached_property
    def constants(self) -> tuple[Constant | None, ...]:
        """Of each axis the slices that hold one number."""
        if self.array is None:
            return self.axes
        return constants_of(self.array, self.fixed, self.shape)

    @property
    def fills(self) -> tuple[np.ndarray | None, ...]:
        """Of each axis what the constant slices hold."""
        return tuple(None if part is None else part.value for part in self.constants)

    @functools.cached_property
    def alive(self) -> np.ndarray:
        """Entries of a known array that are not zero for good, as ``array``."""
        assert self.array is not None
        alive = self.array != 0
        return alive if self.fixed is None else alive | ~self.fixed

    def varies(self, axis: int) -> np.ndarray:
        """Return which slices along an axis do not hold one number."""
        part = self.constants[axis]
        return np.ones(self.shape[axis], bool) if part is None else ~part.where

    def zero(self, axis: int) -> np.ndarray:
        """Return which slices along an axis are zero."""
        part = self.constants[axis]
        if part is None:
            return np.zeros(self.shape[axis], bool)
        return part.where & (part.value == 0)


def varying(shape: Sequence[int], dtype: Any) -> Facts:
    """Return that nothing is known."""
    return Facts(tuple(shape), dtype, (None,) * len(shape))


def known(
    array: Any, shape: Sequence[int], dtype: Any, fixed: np.ndarray | None, leaves: bool
) -> Facts:  # fmt: skip
    """Return that a value is an array."""
    return Facts(tuple(shape), dtype, (), np.asarray(array), fixed, leaves)


def of_axes(shape: Sequence[int], dtype: Any, axes: Sequence[Constant | None]) -> Facts:
    """Return what is known of a value by its axes; one that is a single number is so along all."""
    axes = [None if part is None or not part.where.any() else part for part in axes]
    for part in axes:
        if part is not None and part.where.all() and (part.value == part.value[0]).all():
            number = part.value[0]
            axes = [
                Constant(np.ones(size, bool), np.full(size, number, part.value.dtype))
                for size in shape
            ]
            break
    return Facts(tuple(shape), dtype, tuple(axes))


def zeros(shape: Sequence[int], dtype: Any, where: Sequence[np.ndarray | None]) -> Facts:
    """Return that slices are zero; if all are along an axis, the value is."""
    return of_axes(
        shape, dtype,
        [None if part is None else Constant(part, np.zeros(len(part), dtype)) for part in where],
    )  # fmt: skip


def constants_of(
    array: np.ndarray, fixed: np.ndarray | None, shape: Sequence[int]
) -> tuple[Constant | None, ...]:
    """Return the slices of an array that hold one number for good.

    Args:
      array: with size one along axes on which it does not change.
      fixed: entries that count, likewise; None: all.
      shape: with all sizes.
    """
    found: list[Constant | None] = []
    for axis, size in enumerate(shape):
        if not array.size:
            found.append(None)
            continue
        own = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        where = (own == own[:, :1]).all(1)
        if fixed is not None:  # which may be there once for all of an axis where the array is not
            where = where & np.moveaxis(fixed, axis, 0).reshape(fixed.shape[axis], -1).all(1)
        value = np.broadcast_to(own[:, 0], where.shape)
        found.append(Constant(where, value).along(size) if where.any() else None)
    return tuple(found)


def by_entry(
    parts: Sequence[Constant | None], shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return which entries of a value are constant along some axis, and what they hold.

    Args:
      parts: of each axis; None: nothing there.
      shape: of the value.
    """
    found = [(axis, part) for axis, part in enumerate(parts) if part is not None]
    if not found:
        return None
    where = np.zeros(tuple(shape), bool)
    value = np.zeros(tuple(shape), found[0][1].value.dtype)
    for axis, part in found:
        own = along(part.where, axis, len(shape))
        value = np.where(own & ~where, along(part.value, axis, len(shape)), value)
        where = where | own
    return where, value

"""Norms and scores of small kernels in NumPy: the bits of the compiled programs, and no compiling.

A program takes a third of a second to compile, whatever its size, and a network may have thirty
shapes. What is computed here, `peak` and `flow` and the scores of `lap_jax.scoring.scores`, is made
of operations that IEEE 754 defines to the bit, in one order, so that NumPy gives the same numbers.
One thing is left to the hardware: programs of XLA take subnormal numbers for zero, and NumPy does
not. Where one comes up, or nearly, each function returns None, and the program is to be run.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from lap_jax.scoring.kernels import Layout
from lap_jax.scoring.norms import slices_at_once

Array = np.ndarray[Any, Any]
_WORDS = {2: np.int16, 4: np.int32, 8: np.int64}
_SPARE = 2.0**6
"""How far from the smallest normal number results are to be."""


def widen(x: Array) -> Array:
    """Return an array in float32, or as wide as it is."""
    return x if x.dtype == np.float64 else x.astype(np.float32)


def peak(kernel: Array, mask: Array | None = None) -> Array | None:
    """Return the largest ``|w|`` of those that count; not finite if a weight is not."""
    values = np.abs(widen(kernel))
    return unless_tiny(np.asarray(np.max(values if mask is None else np.where(mask, values, 0))))


def flow(
    groups: int, kernel: Array, peak: Array, mask: Array | None = None
) -> tuple[Array, Array] | None:
    """Return norms of a kernel, per input neuron and per output neuron, as `scores.flow` does."""
    near = _power_of_two(peak)
    if near is None:
        return None
    window = (-1, *kernel.shape[-2:])
    values = widen(kernel).reshape(window) / near
    squares = unless_tiny(np.square(values, out=values))
    if squares is None:
        return None
    squares = _shortened(squares)
    if mask is not None:
        np.putmask(squares, ~mask.reshape(window), 0)
    squares = _add_up(squares, 0) if len(squares) > 1 else squares[0]
    arriving = _add_up(squares, 0)
    grouped = squares.reshape(len(squares), groups, -1).swapaxes(0, 1)
    leaving = _add_up(grouped, -1).reshape(-1)
    return near * np.sqrt(leaving), near * np.sqrt(arriving)


def euclidean(rows: Array) -> Array | None:
    """Return ``sqrt((rows**2).sum(0))``, as `norms.euclidean` does, of numbers not negative."""
    near = _power_of_two(np.asarray(np.max(rows)))
    if near is None:
        return None
    squares = unless_tiny(np.square(rows / near))
    return None if squares is None else unless_tiny(near * np.sqrt(_add_up(_shortened(squares), 0)))


def lookahead(
    layout: Layout, kernel: Array, input: Array | None, output: Array | None
) -> Array | None:
    """Return ``|w| * input[j] * output[k]``, each side over a power of two near its largest."""
    sides: list[Array] = []
    for side in (input, output):
        if side is None:
            sides.append(np.ones(1, np.float32))
            continue
        near = _power_of_two(np.asarray(np.max(side)))
        scaled = None if near is None else unless_tiny(side / near)
        if scaled is None:
            return None
        sides.append(scaled)
    left, right = sides
    if len(left) > 1:  # along the axis of inputs; with groups along both last
        each = left.reshape(layout.groups, -1).T
        left = np.repeat(each, layout.shape[-1] // layout.groups, 1) if layout.groups > 1 else each
    found = np.abs(widen(kernel)).astype(np.result_type(np.float32, kernel, left, right))
    if unless_tiny(np.multiply(found, left, out=found)) is None:
        return None
    return unless_tiny(np.multiply(found, right, out=found))


def _power_of_two(x: Array) -> np.floating | None:
    """Return a power of two within a factor of two of a positive number, or 1 for zero.

    None where scaling by it might leave the range of numbers.
    """
    if x == 0:
        return x.dtype.type(1)
    _, exponent = np.frexp(x)
    if not np.isfinite(x) or abs(exponent) > 60:
        return None
    return np.ldexp(x.dtype.type(1), exponent)


def unless_tiny(x: Array) -> Array | None:
    """Return numbers that are not negative, or None if one is subnormal, or nearly so."""
    least = np.finfo(x.dtype).tiny * x.dtype.type(_SPARE)
    tiny = x < least
    return None if tiny.any() and np.any(x[tiny]) else x


def _shortened(x: Array) -> Array:
    """Round positive numbers to one bit less than the type holds, ties to even."""
    bits = x.view(_WORDS[x.dtype.itemsize])
    rounded = bits >> 1  # one array, again and again: most of the time goes to new memory
    rounded &= 1
    rounded += bits
    rounded &= -2
    return rounded.view(x.dtype)


def _add_up(x: Array, axis: int) -> Array:
    """Return ``x.sum(axis)``, in the order of `norms.add_up`."""
    x = np.moveaxis(x, axis, 0)
    while len(x) > 1:
        count = slices_at_once(len(x))
        rest = np.zeros((-len(x) % count, *x.shape[1:]), x.dtype)
        x = np.concatenate([x, rest]) if len(rest) else x
        parts = x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)
        x = functools.reduce(np.add, parts)
    return x[0]

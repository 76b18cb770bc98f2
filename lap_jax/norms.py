"""Euclidean norms that come out the same, to the bit, however an array is laid out over devices.

A floating-point sum depends on its order, and a reduction leaves the order to the compiler and to
the layout. Here slices are added one to the other, so that the program fixes it; on a CPU that is
also as fast as a reduction, and it rounds less than adding up from left to right.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

# XLA's CPU backend fuses as many slices into one pass over memory, but not sixteen; a power of two
# where devices share the axis, and all nine places of the usual window.
_SLICES = 8
_AT_ONCE = 9


def euclidean(x: jax.Array, axis: int) -> jax.Array:
    """Return ``sqrt((x**2).sum(axis))``; neither overflows nor underflows."""
    near = near_largest(x)
    return near * jnp.sqrt(add_up(squares(x / near), axis))


def squares(x: jax.Array) -> jax.Array:
    """Return ``x**2`` to one bit less than the type holds.

    The bit is what keeps a compiler from joining the multiplication with an addition that follows,
    which it may do in one program and not in another, with another rounding.
    """
    info = jnp.finfo(x.dtype)
    return lax.reduce_precision(x * x, info.nexp, info.nmant - 1)


def add_up(x: jax.Array, axis: int) -> jax.Array:
    """Return ``x.sum(axis)``, in an order that only the size of the axis decides.

    Eight neighbours at a time: where an axis lies over devices in multiples of eight, each device
    adds up its own.
    """
    while (size := x.shape[axis]) > 1:
        count = size if size <= _AT_ONCE else _SLICES
        if size % count:
            widths = [(0, 0)] * x.ndim
            widths[axis] = (0, -size % count)
            x = jnp.pad(x, widths)
        slices = [lax.slice_in_dim(x, start, x.shape[axis], count, axis) for start in range(count)]
        x = functools.reduce(lax.add, slices)
    return x.squeeze(axis)


def near_largest(x: jax.Array) -> jax.Array:
    """Return a power of two near the largest ``|x|``, a scalar of x's dtype.

    Divided by it, numbers keep their digits, and neither their squares nor products with them leave
    the range of the floating-point type.
    """
    return power_of_two(jnp.max(jnp.abs(x)))


def power_of_two(x: jax.Array) -> jax.Array:
    """Return a power of two within a factor of two of a positive ``x``; 1 for zero."""
    info = jnp.finfo(x.dtype)
    exponent = jnp.clip(jnp.frexp(x)[1], info.minexp, info.maxexp - 1)
    return jnp.ldexp(jnp.ones((), x.dtype), exponent)

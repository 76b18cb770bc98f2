"""Euclidean norms that come out the same, to the bit, however an array is laid out over devices.

A floating-point sum depends on its order, and a reduction leaves the order to the compiler and to
the layout. Here slices are added one to the other, so that the program fixes it; on a CPU that is
also as fast as a reduction, and it rounds less than adding up from left to right.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

# XLA's CPU backend fuses as many slices into one pass over memory, but not sixteen.
_AT_ONCE = 9


def euclidean(x: jax.Array, axis: int) -> jax.Array:
    """Return ``sqrt((x**2).sum(axis))``; neither overflows nor underflows."""
    near = near_largest(x)
    return near * jnp.sqrt(sum_squares(x, axis, near))


def sum_squares(
    x: jax.Array, axis: int, scale: jax.Array, among: jax.Array | None = None
) -> jax.Array:
    """Return ``((x / scale)**2).sum(axis)``, in an order that only the size of the axis decides.

    With ``among``, of the shape of ``x``, only over the entries where it is true.
    """
    if among is None:
        return _add_up((x,), axis, lambda part: _square(part / scale))
    return _add_up((x, among), axis, lambda part, own: jnp.where(own, _square(part / scale), 0))


def add_up(x: jax.Array, axis: int) -> jax.Array:
    """Return ``x.sum(axis)``, in an order that only the size of the axis decides."""
    return _add_up((x,), axis, lambda part: part)


def _square(x: jax.Array) -> jax.Array:
    """Return ``x**2`` to one bit less than the type holds.

    The bit is what keeps a compiler from joining the multiplication with an addition that follows,
    which it may do in one program and not in another, with another rounding.
    """
    info = jnp.finfo(x.dtype)
    return lax.reduce_precision(x * x, info.nexp, info.nmant - 1)


def _add_up(arrays: tuple[jax.Array, ...], axis: int, first: Callable[..., jax.Array]) -> jax.Array:
    """Add up what ``first`` makes of the entries of arrays of one shape.

    A few neighbours at a time: where devices share the axis, each adds up its own, down to an array
    that is small. Slices come before ``first``, so that XLA's CPU backend fuses all into one pass.
    """
    axis %= arrays[0].ndim
    while (size := arrays[0].shape[axis]) > 1:
        count = slices_at_once(size)
        splits = [_split(x, axis, count) for x in arrays]
        parts = [
            first(*(lax.index_in_dim(x, place, axis + 1, keepdims=False) for x in splits))
            for place in range(count)
        ]
        arrays, first = (functools.reduce(lax.add, parts),), lambda part: part
    return first(*arrays).squeeze(axis)


def _split(x: jax.Array, axis: int, count: int) -> jax.Array:
    """View an axis as ``[parts, count]``, filled up with zeros.

    To be indexed: a slice with a stride would move numbers between devices, and XLA's partitioner
    gets some of them wrong.
    """
    if x.shape[axis] % count:
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, -x.shape[axis] % count)
        x = jnp.pad(x, widths)
    return x.reshape(*x.shape[:axis], -1, count, *x.shape[axis + 1 :])


def slices_at_once(size: int) -> int:
    """Return how many neighbours to add up at a time: odd factors first, powers of two last.

    The powers of two are what the number of devices divides.
    """
    if size <= _AT_ONCE:
        return size
    return next((factor for factor in (9, 7, 5, 3) if size % factor == 0), 8)


def in_memory(x: jax.Array, positive: jax.Array) -> jax.Array:
    """Return ``x``, computed once and written to memory, for consumers that are many.

    XLA would compute it again inside each of them, and drops an optimization barrier before it
    decides to. It does not see through a loop; this one never turns, because ``positive`` is a
    number that is not negative.
    """

    def turn(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros((), bool), -state[1]

    return lax.while_loop(lambda state: state[0], turn, (positive < 0, x))[1]


def near_largest(x: jax.Array) -> jax.Array:
    """Return a power of two near the largest ``|x|``, a scalar of x's dtype.

    Divided by it, numbers keep their digits, and neither their squares nor products with them leave
    the range of the floating-point type.
    """
    return power_of_two(jnp.max(jnp.abs(x)))


def power_of_two(x: jax.Array) -> jax.Array:
    """Return a power of two within a factor of two of a positive ``x``; 1 for zero."""
    # By its bits: what is compiled for `frexp` and `ldexp` takes a third of a small program's time.
    info, bits = jnp.finfo(x.dtype), _bits(x)
    one, last = (_bits(jnp.asarray(value, x.dtype)) for value in (1, 2.0 ** (info.maxexp - 1)))
    unit = jnp.asarray(1 << info.nmant, bits.dtype)  # of the exponent
    above = jnp.minimum((bits & -unit) + unit, last)
    bits = jnp.where((bits == 0) | (bits >= last + unit), one, above)  # infinite and NaN: 1, too
    # The barrier keeps XLA from working this scalar out again for every number it is applied to.
    return lax.optimization_barrier(lax.bitcast_convert_type(bits, x.dtype))


_LIFT = 100


def is_tiny(x: jax.Array) -> jax.Array:
    """Return whether the largest ``|x|`` is so small that subnormal numbers beside it matter."""
    return jnp.max(_bits(x)) < _bits(jnp.asarray(2.0**-40, x.dtype))


def lifted(x: jax.Array, tiny: jax.Array) -> jax.Array:
    """Return ``|x|``, where ``tiny`` times a power of two that leaves nothing subnormal.

    By integers, because processors are told to take subnormal numbers for zero.
    """
    info, bits = jnp.finfo(x.dtype), _bits(x)
    unit = jnp.asarray(2.0 ** (info.minexp - info.nmant + _LIFT), x.dtype)
    subnormal = bits < _bits(jnp.asarray(info.tiny, x.dtype))
    up = jnp.where(subnormal, bits.astype(x.dtype) * unit, jnp.abs(x) * 2.0**_LIFT)
    return jnp.where(tiny, up, jnp.abs(x))


def lowered(x: jax.Array, tiny: jax.Array) -> jax.Array:
    """Return what `lifted` made larger at its own scale, subnormal numbers rounded as such."""
    info = jnp.finfo(x.dtype)
    unit = jnp.asarray(2.0 ** (info.minexp - info.nmant + _LIFT), x.dtype)
    subnormal = lax.bitcast_convert_type(jnp.round(x / unit).astype(_bits(x).dtype), x.dtype)
    down = jnp.where(x < unit * 2.0**info.nmant, subnormal, x * 2.0**-_LIFT)
    return jnp.where(tiny, down, x)


def _bits(x: jax.Array) -> jax.Array:
    """Return ``|x|`` as whole numbers in the same order."""
    word = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}[x.dtype.itemsize]
    return lax.bitcast_convert_type(jnp.abs(x), word)


def lamp(scores: jax.Array) -> jax.Array:
    """Return the squares over the sum of those that are not smaller."""
    flat = lifted(scores, is_tiny(scores)).reshape(-1)
    flat = flat / near_largest(flat)
    places = lax.iota(jnp.int32, flat.size)
    rising, places = lax.sort((flat, places), num_keys=1)
    tail = lax.cumsum(jnp.square(rising), reverse=True)
    # Of equal scores all have the sum that includes all of them: that of the first.
    first = jnp.concatenate([jnp.ones(1, bool), rising[1:] != rising[:-1]])
    tail = lax.cummin(jnp.where(first, tail, jnp.inf))
    lamp = jnp.square(rising) / jnp.where(tail > 0, tail, 1)
    found = jnp.zeros_like(flat).at[places].set(lamp, unique_indices=True)
    return found.reshape(scores.shape)

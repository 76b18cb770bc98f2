"""Scores in, boolean masks out: exactly ``k`` stay, and ties go to the earlier position.

Scores are not negative, so their bit patterns are ordered as they are. The k-th largest is found by
bisection on these bits: each pass counts how many scores reach each of three pivots and settles two
bits. Nothing is sorted, and on a mesh only counts cross devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from lap_jax.errors import PruningError


def keep_largest(
    scores: jax.Array, k: jax.Array | int, among: jax.Array | None = None
) -> jax.Array:
    """Return the mask of the ``k`` largest scores.

    Equal scores are told apart by position: the earlier in row-major order stays. NaN ranks above
    everything, so a score that is not a number is never pruned silently.

    Args:
      scores: any shape, floating point, not negative (a sign is ignored).
      k: how many to keep, 0 <= k <= size; may be traced.
      among: boolean, of the same shape. Scores outside of it rank below all others, zeros included.

    Returns:
      Boolean array of the same shape with exactly ``k`` true entries.

    Raises:
      PruningError: if there are 2**32 scores or more.
    """
    if math.prod(scores.shape) >= 2**32:
        raise PruningError(f"an array of shape {scores.shape} has 2**32 scores or more: split it")
    keys = _ordered_bits(scores)
    if among is not None:
        keys = jnp.where(among, keys, 0)
    wanted = jnp.asarray(k).astype(jnp.uint32)
    threshold = _largest_that_holds(
        lambda pivots: _count(*(keys >= pivot for pivot in pivots)), wanted, keys.dtype
    )
    above = keys > threshold
    ties = keys == threshold
    above_count, tie_count = _count(above, ties)
    missing = wanted - above_count
    position = _positions(scores.shape)
    # Complemented, the positions are largest first, as the keys are.
    last = jnp.uint32(0xFFFFFFFF) - position
    cut = lax.cond(
        missing == tie_count,
        lambda: jnp.uint32(0),
        lambda: _largest_that_holds(
            lambda pivots: _count(*(ties & (last >= pivot) for pivot in pivots)),
            missing,
            jnp.dtype(jnp.uint32),
        ),
    )
    return above | (ties & (last >= cut) & (missing > 0))


def _ordered_bits(scores: jax.Array) -> jax.Array:
    """Return unsigned integers in the order of the scores, from 1; 0 is for what is out of it."""
    bits = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[scores.dtype.itemsize]
    keys = lax.bitcast_convert_type(jnp.abs(scores), bits)
    return (keys if scores.dtype.itemsize > 2 else keys.astype(jnp.uint32)) + 1


def _largest_that_holds(
    count_reaching: Callable[[list[jax.Array]], tuple[jax.Array, ...]],
    wanted: jax.Array,
    dtype: jnp.dtype,
) -> jax.Array:
    """Return the largest number that at least ``wanted`` of the counted ones reach."""

    def settle_two_bits(step: jax.Array, known: jax.Array) -> jax.Array:
        shift = (jnp.iinfo(dtype).bits - 2 - 2 * step).astype(dtype)
        pivots = [known | (jnp.asarray(digit, dtype) << shift) for digit in (1, 2, 3)]
        digit = sum((count >= wanted).astype(dtype) for count in count_reaching(pivots))
        return known | (digit << shift)

    return lax.fori_loop(0, jnp.iinfo(dtype).bits // 2, settle_two_bits, jnp.zeros((), dtype))


def _count(*conditions: jax.Array) -> tuple[jax.Array, ...]:
    """Count several conditions in one pass over memory.

    One reduction with several operands, because XLA's CPU backend vectorises this form; a single
    integer sum becomes a slow tree of windows there.
    """
    ones = tuple(condition.astype(jnp.uint32) for condition in conditions)
    zeros = tuple(jnp.uint32(0) for _ in ones)
    return tuple(
        lax.reduce(
            ones,
            zeros,
            lambda left, right: tuple(a + b for a, b in zip(left, right, strict=True)),
            tuple(range(ones[0].ndim)),
        )
    )


def _positions(shape: tuple[int, ...]) -> jax.Array:
    """Return row-major positions, without a reshape, which would gather a sharded array."""
    position = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :])
        position = position + lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    return position

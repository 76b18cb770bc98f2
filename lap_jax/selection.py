"""Scores in, boolean masks out: exactly ``k`` stay, and ties go to the earlier position.

Scores are not negative, so their bit patterns are ordered as they are, and a mask is known once the
k-th largest pattern is. It is found by counting: each pass over the scores counts how many reach
each of five pivots, and the next pivots close in by interpolation, until a pivot has exactly ``k``
scores above it. A thin sample, searched first, leaves three or four passes over the whole. The mask
depends on none of this: there is one set of ``k`` largest.

The same on every backend. Nothing is sorted: XLA's sort takes a hundred times a pass on a CPU. On a
mesh only the counts cross devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lap_jax.errors import PruningError

Scored = Callable[..., Any]

# Pivots per pass, in standard deviations of where interpolation puts the k-th; one more bisects,
# so that no distribution takes more passes than there are bits.
_SPREAD = np.array([-1.5, -0.5, 0.0, 0.5, 1.5], np.float32)
_SAMPLE = 2**14
_LARGEST_STRIDE = 16


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
      PruningError: if there are 2**31 scores or more.
    """
    operands = (scores,) if among is None else (scores, among)
    return keep_largest_of([(_as_they_are, operands)], k)[0]


def keep_largest_of(
    scored: Sequence[tuple[Scored, tuple[Any, ...]]], k: jax.Array | int
) -> list[jax.Array]:
    """Return the masks of the ``k`` largest scores of several arrays together.

    Scores are computed anew in each pass, inside of the loop that counts them: they are never in
    memory, which is faster than reading them back.

    Args:
      scored: pairs of a function and its operands; ``function(*operands)`` gives an array of
        scores, or a pair of scores and a boolean array ``among`` as in `keep_largest`.
      k: how many to keep of all; may be traced. Ties: the earlier array, then the earlier position.

    Returns:
      One boolean array per pair.

    Raises:
      PruningError: if there are 2**31 scores or more.
    """
    functions = [function for function, _ in scored]
    operands = [arguments for _, arguments in scored]

    def keys_of(operands: Any) -> list[jax.Array]:
        return [_keys(function(*each)) for function, each in zip(functions, operands, strict=True)]

    shaped = jax.eval_shape(keys_of, operands)
    shapes = [keys.shape for keys in shaped]
    size = sum(map(math.prod, shapes))
    if size >= 2**31:
        raise PruningError(f"{size} scores to compare are 2**31 or more: split them")
    dtype = jnp.result_type(*shaped)
    top = jnp.asarray(np.iinfo(dtype).max - 1, dtype)
    bottom = jnp.asarray(-1, dtype)
    wanted = jnp.asarray(k).astype(jnp.int32)

    def reaching(pivots: jax.Array) -> jax.Array:
        # The barrier keeps XLA from lifting the scores out of the loop, into memory.
        inputs, pivots = lax.optimization_barrier((operands, pivots))
        return _count_reaching(keys_of(inputs), pivots)

    guess = None
    if size > 4 * _SAMPLE:
        samples = [_thin(keys) for keys in keys_of(operands)]
        guess = _guess(samples, wanted, size, bottom, top)
    threshold, reach, above = _search(reaching, wanted, size, bottom, top, guess)

    # Now ``above`` < wanted <= ``reach``, and either all that reach the threshold stay, or those
    # between are equal: of these the first ones stay.
    def last_positions(operands: Any) -> list[jax.Array]:
        keys = keys_of(operands)
        return [
            jnp.where(each == threshold, _from_the_end(shape, start, size), -1)
            for each, shape, start in zip(keys, shapes, _starts(shapes), strict=True)
        ]

    def first_of_ties() -> jax.Array:
        def reaching(pivots: jax.Array) -> jax.Array:
            inputs, pivots = lax.optimization_barrier((operands, pivots))
            return _count_reaching(last_positions(inputs), pivots)

        lowest = jnp.int32(0)
        return _search(reaching, wanted - above, reach - above, lowest, jnp.int32(size))[0]

    def with_ties() -> list[jax.Array]:
        cut = first_of_ties()
        return [
            (keys > threshold) | (last >= cut)
            for keys, last in zip(keys_of(operands), last_positions(operands), strict=True)
        ]

    return lax.cond(
        reach == wanted,
        lambda: [keys >= threshold for keys in keys_of(operands)],
        with_ties,
    )


def _search(
    reaching: Callable[[jax.Array], jax.Array],
    wanted: jax.Array,
    size: jax.Array | int,
    bottom: jax.Array,
    top: jax.Array,
    guess: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Find a number that exactly ``wanted`` keys reach, or the largest that more of them reach.

    Args:
      reaching: counts the keys that reach each pivot.
      wanted: how many.
      size: how many keys reach ``bottom``.
      bottom, top: every key is at least ``bottom``; ``top`` counts as out of reach.
      guess: the first pivots.

    Returns:
      The number, how many keys reach it, and how many are larger (if it is reached by more).
    """

    def closing_in(low: Any, high: Any, reach: Any, above: Any) -> jax.Array:
        between = jnp.maximum(reach - above, 1).astype(jnp.float32)
        share = (reach - wanted).astype(jnp.float32) / between
        deviation = jnp.sqrt(jnp.maximum(share * (1 - share), 1 / between) / between)
        shares = jnp.where(_SPREAD == 0, 0.5, share + _SPREAD * deviation)
        steps = jnp.clip(shares, 0, 1 - 2**-20) * (high - low).astype(jnp.float32)
        return jnp.clip(low + steps.astype(low.dtype), low + 1, jnp.maximum(high - 1, low + 1))

    def narrow(state: Any) -> Any:
        low, high, reach, above, pivots = state
        counts = reaching(pivots)
        up = counts >= wanted
        low = jnp.maximum(low, jnp.max(jnp.where(up, pivots, low)))
        reach = jnp.minimum(reach, jnp.min(jnp.where(up, counts, reach)))
        high = jnp.minimum(high, jnp.min(jnp.where(up, high, pivots)))
        above = jnp.maximum(above, jnp.max(jnp.where(up, above, counts)))
        return low, high, reach, above, closing_in(low, high, reach, above)

    def is_open(state: Any) -> jax.Array:
        low, high, reach, _, _ = state
        return (reach != wanted) & (low + 1 < high)

    start = (bottom, top, jnp.asarray(size, jnp.int32), jnp.int32(0))
    state = (*start, closing_in(*start) if guess is None else guess)
    low, _, reach, above, _ = lax.while_loop(is_open, narrow, state)
    return low, reach, above


def _guess(
    samples: list[jax.Array], wanted: jax.Array, size: int, bottom: jax.Array, top: jax.Array
) -> jax.Array:
    """Return pivots around the place where a sample has the k-th of all."""
    sampled = sum(sample.size for sample in samples)
    rank = wanted.astype(jnp.float32) * (sampled / size)
    margin = 4 * jnp.sqrt(rank * jnp.maximum(1 - rank / sampled, 0)) + 2

    def at(rank: jax.Array) -> jax.Array:
        whole = jnp.clip(rank, 1, sampled).astype(jnp.int32)
        return _search(partial(_count_reaching, samples), whole, sampled, bottom, top)[0]

    low, high = at(rank + margin), at(rank - margin)
    steps = jnp.arange(_SPREAD.size, dtype=low.dtype)
    return low + 1 + steps * ((high - low) // (_SPREAD.size - 1))


def _as_they_are(*operands: jax.Array) -> Any:
    return operands if len(operands) > 1 else operands[0]


def _keys(scored: Any) -> jax.Array:
    """Return signed integers in the order of the scores; -1 for what is out of the comparison."""
    scores, among = scored if isinstance(scored, tuple) else (scored, None)
    bits = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}[scores.dtype.itemsize]
    keys = lax.bitcast_convert_type(jnp.abs(scores), bits)
    if scores.dtype.itemsize == 2:
        keys = keys.astype(jnp.int32)
    return keys if among is None else jnp.where(among, keys, -1)


def _thin(keys: jax.Array) -> jax.Array:
    """Return an evenly spaced part of an array.

    Strides are powers of two and at most 16, so that on a mesh each device finds its own part.
    """
    strides = [1] * keys.ndim
    counts = list(keys.shape)
    while math.prod(counts) > _SAMPLE:
        axes = [axis for axis in range(keys.ndim) if strides[axis] < _LARGEST_STRIDE]
        axis = max(axes, key=lambda axis: counts[axis], default=None)
        if axis is None or counts[axis] < 2:
            break
        strides[axis] *= 2
        counts[axis] = -(-keys.shape[axis] // strides[axis])
    return keys[tuple(slice(None, None, stride) for stride in strides)]


def _count_reaching(arrays: list[jax.Array], pivots: jax.Array) -> jax.Array:
    """Count the keys of all arrays that reach each pivot.

    One reduction with several operands per array, because XLA's CPU backend vectorises this form; a
    single integer sum becomes a slow tree of windows there.
    """
    totals = jnp.zeros(pivots.shape, jnp.int32)
    for keys in arrays:
        ones = tuple((keys >= pivot).astype(jnp.int32) for pivot in pivots)
        counts = lax.reduce(
            ones,
            (np.int32(0),) * len(ones),
            lambda left, right: tuple(a + b for a, b in zip(left, right, strict=True)),
            tuple(range(keys.ndim)),
        )
        totals = totals + jnp.stack(counts)
    return totals


def _starts(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    sizes = [math.prod(shape) for shape in shapes]
    return [sum(sizes[:index]) for index in range(len(sizes))]


def _from_the_end(shape: tuple[int, ...], start: int, size: int) -> jax.Array:
    """Return ``size - 1 - position`` in row-major order, which is largest first as the keys are.

    Without a reshape, which would gather a sharded array.
    """
    position = jnp.full(shape, size - 1 - start, jnp.int32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :])
        position = position - lax.broadcasted_iota(jnp.int32, shape, axis) * jnp.int32(stride)
    return position

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
_WORDS = {"float32": jnp.int32, "float64": jnp.int64}
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
    return keep_largest_each([[(_as_they_are, operands)]], jnp.asarray(k)[None])[0][0]


def keep_largest_each(
    problems: Sequence[Sequence[tuple[Scored, tuple[Any, ...]]]], k: jax.Array
) -> list[list[jax.Array]]:
    """Solve several problems side by side: in each, keep the largest scores of several arrays.

    Scores are computed anew in each pass, inside of the loop that counts them: they are never in
    memory, which is faster than reading them back. All problems go through one loop, because what a
    pass decides is little code that would otherwise be compiled for each of them.

    Args:
      problems: for each, pairs of a function and its operands; ``function(*operands)`` gives an
        array of scores, or a pair of scores and a boolean array ``among`` as in `keep_largest`.
      k: how many to keep of each problem, ``[problems]``; may be traced. Ties: the earlier array,
        then the earlier position.

    Returns:
      One boolean array per pair.

    Raises:
      PruningError: if there are 2**31 scores or more in one problem.
    """
    functions = [[function for function, _ in scored] for scored in problems]
    operands = [[arguments for _, arguments in scored] for scored in problems]
    dtype = _dtype(functions, operands)

    def keys_of(problem: int, operands: list[Any]) -> list[jax.Array]:
        pairs = zip(functions[problem], operands, strict=True)
        return [_keys(function(*each), dtype) for function, each in pairs]

    shapes = [
        [keys.shape for keys in jax.eval_shape(partial(keys_of, problem), each)]
        for problem, each in enumerate(operands)
    ]
    totals = [sum(map(math.prod, each)) for each in shapes]
    if max(totals) >= 2**31:
        raise PruningError(f"{max(totals)} scores to compare are 2**31 or more: split them")
    sizes = jnp.asarray(totals, jnp.int32)
    key_dtype = _WORDS[dtype]
    top = jnp.full(len(totals), np.iinfo(key_dtype).max - 1, key_dtype)
    bottom = jnp.full(len(totals), -1, key_dtype)
    wanted = jnp.asarray(k).astype(jnp.int32)

    def reaching(pivots: jax.Array, is_open: jax.Array) -> jax.Array:
        return _of_each(keys_of, operands, pivots, is_open)

    guess = None
    if max(totals) > 4 * _SAMPLE:
        samples = [
            [_thin(keys) for keys in keys_of(problem, each)]
            for problem, each in enumerate(operands)
        ]
        guess = _guess(samples, wanted, sizes, bottom, top)
    threshold, reach, above = _search(reaching, wanted, sizes, bottom, top, guess)

    # Now ``above`` < wanted <= ``reach``, and either all that reach the threshold stay, or those
    # between are equal: of these the first ones stay.
    def last_positions(problem: int, operands: list[Any]) -> list[jax.Array]:
        keys = keys_of(problem, operands)
        starts = [sum(map(math.prod, shapes[problem][:index])) for index in range(len(keys))]
        return [
            jnp.where(
                each == threshold[problem], _from_the_end(each.shape, start, totals[problem]), -1
            )
            for each, start in zip(keys, starts, strict=True)
        ]

    def with_ties() -> list[list[jax.Array]]:
        def reaching(pivots: jax.Array, is_open: jax.Array) -> jax.Array:
            return _of_each(last_positions, operands, pivots, is_open)

        cuts = _search(reaching, wanted - above, reach - above, jnp.zeros_like(sizes), sizes)[0]
        return [
            [
                (keys > threshold[problem]) | (last >= cuts[problem])
                for keys, last in zip(
                    keys_of(problem, each), last_positions(problem, each), strict=True
                )
            ]
            for problem, each in enumerate(operands)
        ]

    def without_ties() -> list[list[jax.Array]]:
        return [
            [keys >= threshold[problem] for keys in keys_of(problem, each)]
            for problem, each in enumerate(operands)
        ]

    return lax.cond(jnp.all(reach == wanted), without_ties, with_ties)


def _search(
    reaching: Callable[[jax.Array, jax.Array], jax.Array],
    wanted: jax.Array,
    sizes: jax.Array,
    bottom: jax.Array,
    top: jax.Array,
    guess: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Find a number that exactly ``wanted`` keys reach, or the largest that more of them reach.

    Args:
      reaching: counts the keys that reach each pivot, ``[problems, pivots]``, of the problems that
        are open; of the others it may say anything.
      wanted: how many, ``[problems]`` like all that follow.
      sizes: how many keys reach ``bottom``.
      bottom, top: every key is at least ``bottom``; ``top`` counts as out of reach.
      guess: the first pivots, ``[problems, pivots]``.

    Returns:
      The number, how many keys reach it, and how many are larger (if it is reached by more).
    """

    def is_open(state: Any) -> jax.Array:
        low, high, reach, _, _ = state
        return (reach != wanted) & (low + 1 < high)

    def closing_in(low: Any, high: Any, reach: Any, above: Any) -> jax.Array:
        between = jnp.maximum(reach - above, 1).astype(jnp.float32)
        share = (reach - wanted).astype(jnp.float32) / between
        deviation = jnp.sqrt(jnp.maximum(share * (1 - share), 1 / between) / between)
        shares = jnp.where(_SPREAD == 0, 0.5, share[:, None] + _SPREAD * deviation[:, None])
        steps = jnp.clip(shares, 0, 1 - 2**-20) * (high - low).astype(jnp.float32)[:, None]
        low, high = low[:, None], high[:, None]
        return jnp.clip(low + steps.astype(low.dtype), low + 1, jnp.maximum(high - 1, low + 1))

    def narrow(state: Any) -> Any:
        low, high, reach, above, pivots = state
        counts = reaching(pivots, is_open(state))
        target = wanted[:, None]
        up = (counts >= target) & is_open(state)[:, None]
        down = (counts < target) & is_open(state)[:, None]
        low = jnp.maximum(low, jnp.max(jnp.where(up, pivots, low[:, None]), 1))
        reach = jnp.minimum(reach, jnp.min(jnp.where(up, counts, reach[:, None]), 1))
        high = jnp.minimum(high, jnp.min(jnp.where(down, pivots, high[:, None]), 1))
        above = jnp.maximum(above, jnp.max(jnp.where(down, counts, above[:, None]), 1))
        return low, high, reach, above, closing_in(low, high, reach, above)

    start = (bottom, top, sizes, jnp.zeros_like(sizes))
    state = (*start, closing_in(*start) if guess is None else guess)
    low, _, reach, above, _ = lax.while_loop(lambda state: is_open(state).any(), narrow, state)
    return low, reach, above


def _guess(
    samples: list[list[jax.Array]],
    wanted: jax.Array,
    sizes: jax.Array,
    bottom: jax.Array,
    top: jax.Array,
) -> jax.Array:
    """Return pivots around the place where a sample of each problem has the k-th of all."""
    sampled = jnp.asarray([sum(keys.size for keys in each) for each in samples], jnp.int32)
    rank = wanted.astype(jnp.float32) * (sampled / sizes)
    margin = 4 * jnp.sqrt(rank * jnp.maximum(1 - rank / sampled, 0)) + 2

    def reaching(pivots: jax.Array, _: jax.Array) -> jax.Array:
        each = zip(samples, pivots, strict=True)
        return jnp.stack([_count_reaching(keys, own) for keys, own in each])

    def at(rank: jax.Array) -> jax.Array:
        whole = jnp.clip(rank.astype(jnp.int32), 1, sampled)
        return _search(reaching, whole, sampled, bottom, top)[0]

    low, high = at(rank + margin), at(rank - margin)
    steps = jnp.arange(_SPREAD.size, dtype=low.dtype)
    return (low + 1)[:, None] + steps * ((high - low) // (_SPREAD.size - 1))[:, None]


def _of_each(
    keys_of: Callable[[int, list[Any]], list[jax.Array]],
    operands: list[list[Any]],
    pivots: jax.Array,
    is_open: jax.Array,
) -> jax.Array:
    """Count the keys that reach each pivot, of the open problems: ``[problems, pivots]``."""

    def count(problem: int) -> jax.Array:
        # The barrier keeps XLA from lifting the scores out of the loop, into memory.
        inputs, own = lax.optimization_barrier((operands[problem], pivots[problem]))
        return _count_reaching(keys_of(problem, inputs), own)

    return jnp.stack(
        [
            lax.cond(
                is_open[problem],
                partial(count, problem),
                lambda: jnp.zeros(_SPREAD.size, jnp.int32),
            )
            for problem in range(len(operands))
        ]
    )


def _as_they_are(*operands: jax.Array) -> Any:
    return operands if len(operands) > 1 else operands[0]


def _dtype(functions: list[list[Scored]], operands: list[list[Any]]) -> Any:
    """Return the type that all scores are compared in: float32 or wider."""

    def scores() -> list[jax.Array]:
        found = [
            function(*each)
            for row, arguments in zip(functions, operands, strict=True)
            for function, each in zip(row, arguments, strict=True)
        ]
        return [each[0] if isinstance(each, tuple) else each for each in found]

    return jnp.result_type(jnp.float32, *jax.eval_shape(scores)).name


def _keys(scored: Any, dtype: str) -> jax.Array:
    """Return signed integers in the order of the scores; -1 for what is out of the comparison."""
    scores, among = scored if isinstance(scored, tuple) else (scored, None)
    keys = lax.bitcast_convert_type(jnp.abs(scores.astype(dtype)), _WORDS[dtype])
    return keys if among is None else jnp.where(among, keys, -1)


def _thin(keys: jax.Array) -> jax.Array:
    """Return an evenly spaced part of an array.

    Strides are powers of two and at most 16, so that on a mesh each device finds its own part.
    """
    left = [math.gcd(size, _LARGEST_STRIDE) for size in keys.shape]
    if keys.size > _SAMPLE and max(left, default=1) == 1:
        longest = max(range(keys.ndim), key=lambda axis: keys.shape[axis])
        return lax.slice_in_dim(keys, 0, None, -(-keys.size // _SAMPLE), longest)
    while keys.size > _SAMPLE and max(left) > 1:
        axis = max(range(keys.ndim), key=lambda axis: (left[axis] > 1, keys.shape[axis]))
        left[axis] //= 2
        split = keys.reshape(*keys.shape[:axis], -1, 2, *keys.shape[axis + 1 :])
        keys = lax.index_in_dim(split, 0, axis + 1, keepdims=False)
    return keys


def _count_reaching(arrays: list[jax.Array], pivots: jax.Array) -> jax.Array:
    """Count the keys of all arrays that reach each pivot."""
    totals = jnp.zeros(pivots.shape, jnp.int32)
    for keys in arrays:
        counts = _sums([keys >= pivot for pivot in pivots], tuple(range(keys.ndim)))
        totals = totals + jnp.stack(counts)
    return totals


def _sums(flags: list[jax.Array], axes: tuple[int, ...]) -> tuple[jax.Array, ...]:
    """Count the true entries of several arrays over the same axes.

    One reduction with several operands, because XLA's CPU backend vectorises this form; a single
    integer sum becomes a slow tree of windows there.
    """
    return tuple(
        lax.reduce(
            tuple(flag.astype(jnp.int32) for flag in flags),
            (np.int32(0),) * len(flags),
            lambda left, right: tuple(a + b for a, b in zip(left, right, strict=True)),
            axes,
        )
    )


def _from_the_end(shape: tuple[int, ...], start: int, size: int) -> jax.Array:
    """Return ``size - 1 - position`` in row-major order, which is largest first as the keys are.

    Without a reshape, which would gather a sharded array.
    """
    position = jnp.full(shape, size - 1 - start, jnp.int32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :])
        position = position - lax.broadcasted_iota(jnp.int32, shape, axis) * jnp.int32(stride)
    return position

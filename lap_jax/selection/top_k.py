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
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lap_jax.batching import for_each, is_traced, turned
from lap_jax.errors import PruningError

# Pivots per pass, in standard deviations of where interpolation puts the k-th; one more bisects,
# so that no distribution takes more passes than there are bits.
_SPREAD = np.array([-1.5, -0.5, 0.0, 0.5, 1.5], np.float32)
_SAMPLE = 2**14
_WORDS = {"float32": jnp.int32, "float64": jnp.int64}
_LARGEST_STRIDE = 16


def keep_largest(
    scores: jax.Array, k: jax.Array | int, where: jax.Array | None = None
) -> jax.Array:
    """Return the mask of the ``k`` largest scores.

    Equal scores are told apart by position: the earlier in row-major order stays. NaN ranks above
    everything, so a score that is not a number is never pruned silently.

    Args:
      scores: any shape, floating point, not negative (a sign is ignored).
      k: how many to keep, 0 <= k <= size; may be traced.
      where: boolean, of the same shape. Scores outside of it rank below all others, zeros included.

    Returns:
      Boolean array of the same shape with exactly ``k`` true entries.

    Raises:
      PruningError: if there are 2**31 scores or more.
    """
    return largest(lambda scores, where: (scores, where), (scores, where), k)


def largest_on_host(scores: np.ndarray, k: int, where: np.ndarray | None = None) -> np.ndarray:
    """Return the mask of `keep_largest`, of NumPy arrays."""
    keys = np.abs(scores.reshape(-1)).view(_WORDS[scores.dtype.name])
    own = np.ones(keys.size, bool) if where is None else where.reshape(-1)
    among = keys if where is None else keys[own]
    if k >= among.size:  # all that take part, and of the others the first
        mask = own.copy()
        mask[np.flatnonzero(~own)[: k - among.size]] = True
        return mask.reshape(scores.shape)
    if k == 0:
        return np.zeros(scores.shape, bool)
    least = np.partition(among, among.size - k)[among.size - k]
    mask = own & (keys > least)
    mask[np.flatnonzero(own & (keys == least))[: k - int(mask.sum())]] = True
    return mask.reshape(scores.shape)


Scored = Callable[..., tuple[jax.Array, jax.Array | None]]
"""Gives scores, and where they take part (None: everywhere)."""


def largest(scored: Scored, operands: tuple[Any, ...], k: jax.Array | int) -> jax.Array:
    """Return the mask of the ``k`` largest scores of one array, as in `keep_largest`.

    Scores are computed anew in each pass, inside of the loop that counts them: they are never in
    memory, which is faster than reading them back.

    Args:
      scored: ``scored(*operands)``.
      operands: trees of arrays.
      k: how many to keep; may be traced.
    """
    shape = jax.eval_shape(scored, *operands)[0]
    dtype = jnp.promote_types(shape.dtype, jnp.float32).name
    size = _checked_size(math.prod(shape.shape))

    def keys(operands: tuple[Any, ...]) -> jax.Array:
        return as_keys(*scored(*operands), dtype)

    def reaching(pivots: jax.Array) -> jax.Array:
        # The barrier keeps XLA from lifting the scores out of the loop, into memory.
        inputs, own = lax.optimization_barrier((operands, pivots))
        return _count_reaching(keys(inputs), own)

    wanted = jnp.asarray(k).astype(jnp.int32)
    sample = _thin(keys(operands)) if size > 4 * _SAMPLE else None
    count = None if sample is None else partial(_count_reaching, sample)
    found = _threshold(reaching, count, 0 if sample is None else sample.size, wanted, size, dtype)

    # Now ``above`` < wanted <= ``reach``, and either all that reach the threshold stay, or those
    # between are equal: of these the first ones stay.
    def with_ties() -> jax.Array:
        def reaching(pivots: jax.Array) -> jax.Array:
            inputs, own = lax.optimization_barrier((operands, pivots))
            return _count_reaching(_last_positions(keys(inputs), found.value, 0, size), own)

        cut = _cut(reaching, found, wanted, size)
        every = keys(operands)
        return (every > found.value) | (_last_positions(every, found.value, 0, size) >= cut)

    return lax.cond(found.reach == wanted, lambda: keys(operands) >= found.value, with_ties)


def largest_of_all(
    scored: Scored, calls: Mapping[str, tuple[Hashable, tuple[Any, ...]]], k: jax.Array | int
) -> dict[str, jax.Array]:
    """Return the masks of the ``k`` largest scores of several arrays together.

    Args:
      scored: ``scored(settings, *operands)``; one object for all calls of the process.
      calls: settings and operands by name; ties go to the earlier name, then the earlier position.
      k: how many to keep; may be traced.

    Raises:
      PruningError: if there are 2**31 scores or more.
    """
    shapes = {name: jax.eval_shape(partial(scored, settings), *operands)[0]
              for name, (settings, operands) in calls.items()}  # fmt: skip
    dtype = jnp.result_type(jnp.float32, *(shape.dtype for shape in shapes.values())).name
    sizes = [math.prod(shape.shape) for shape in shapes.values()]
    size = _checked_size(sum(sizes))
    starts = dict(zip(calls, np.cumsum([0, *sizes[:-1]]).astype(np.int32), strict=True))
    traced = is_traced((k, [operands for _, operands in calls.values()]))

    def run(function: Callable[..., Any], *others: Any) -> dict[str, Any]:
        """Call a function for each array, with numbers that are the same for all."""
        return for_each(function, {name: ((scored, settings, dtype), (operands, *others))
                                   for name, (settings, operands) in calls.items()})  # fmt: skip

    def reaching(pivots: jax.Array) -> jax.Array:
        return _added(run(_count_each, pivots))

    wanted = jnp.asarray(k).astype(jnp.int32)
    count, sampled = None, 0
    if size > 4 * _SAMPLE:
        samples = run(_thin_each)
        sampled = sum(sample.size for sample in samples.values())

        def count(pivots: jax.Array) -> jax.Array:
            parts = {name: (None, (sample, pivots)) for name, sample in samples.items()}
            return _added(for_each(_count_sample, parts))

    found = _threshold(reaching, count, sampled, wanted, size, dtype, traced)

    def reaching_last(pivots: jax.Array) -> jax.Array:
        return _added(for_each(_count_last_each, {
            name: ((scored, settings, dtype), (operands, found.value, starts[name], size, pivots))
            for name, (settings, operands) in calls.items()
        }))  # fmt: skip

    cut = _cut(reaching_last, found, wanted, size, traced)
    return for_each(_mask_each, {
        name: ((scored, settings, dtype), (operands, found.value, cut, starts[name], size))
        for name, (settings, operands) in calls.items()
    })  # fmt: skip


def as_keys(scores: jax.Array, where: jax.Array | None, dtype: str) -> jax.Array:
    """Return signed integers in the order of the scores; -1 for what is out of the comparison."""
    keys = lax.bitcast_convert_type(jnp.abs(scores.astype(dtype)), _WORDS[dtype])
    return keys if where is None else jnp.where(where, keys, -1)


class _Found(NamedTuple):
    """A number, how many keys reach it, and how many are larger (if more reach it than wanted)."""

    value: jax.Array
    reach: jax.Array
    above: jax.Array


def _threshold(
    reaching: Callable[[jax.Array], jax.Array], sampled: Callable[[jax.Array], jax.Array] | None,
    sample_size: int, wanted: jax.Array, size: int, dtype: str, traced: bool = True,
) -> _Found:  # fmt: skip
    """Find the number that exactly ``wanted`` keys reach, or the largest that more of them reach.

    Args:
      reaching: counts the keys that reach each pivot.
      sampled: the same of a sample of ``sample_size`` keys, which is searched first.
      wanted, size: how many of how many.
      dtype: of the scores.
      traced: whether the loops are part of a program.
    """
    bottom, top = _ends(dtype)
    if sampled is None:
        return _search(reaching, wanted, jnp.int32(size), bottom, top, None, traced)
    whole = jnp.int32(sample_size)
    ranks = _ranks(wanted, whole, jnp.int32(size))
    ends = [_search(sampled, rank, whole, bottom, top, None, traced).value for rank in ranks]
    return _search(reaching, wanted, jnp.int32(size), bottom, top, _first(*ends), traced)


def _cut(
    reaching: Callable[[jax.Array], jax.Array], found: _Found, wanted: jax.Array, size: int,
    traced: bool = True,
) -> jax.Array:  # fmt: skip
    """Return which of the keys that equal the threshold stay: those that lie so far from the end.

    Args:
      reaching: counts the equal keys that lie at least so far from the end.
      found: the threshold.
      wanted, size: how many of how many.
      traced: as in `_threshold`.
    """
    start, end = jnp.int32(0), jnp.int32(size)
    return _search(reaching, wanted - found.above, found.reach - found.above, start, end, None,
                   traced).value  # fmt: skip


def _search(
    reaching: Callable[[jax.Array], jax.Array], wanted: jax.Array, size: jax.Array,
    bottom: jax.Array, top: jax.Array, first: jax.Array | None, traced: bool,
) -> _Found:  # fmt: skip
    """Close in on a number: every key is at least ``bottom``, and ``top`` is out of reach.

    ``size`` keys reach ``bottom``; ``first`` are the first pivots.
    """
    start = (bottom, top, size, jnp.zeros_like(size))
    state = _State(*start, wanted, _closing_in(*start, wanted) if first is None else first)
    found = turned(_is_open, lambda state: _narrowed(state, reaching(state.pivots)), state, traced)
    return _Found(found.low, found.reach, found.above)


class _State(NamedTuple):
    """Of a search: ``reach`` keys reach ``low``; ``above``, fewer than wanted, reach ``high``."""

    low: jax.Array
    high: jax.Array
    reach: jax.Array
    above: jax.Array
    wanted: jax.Array
    pivots: jax.Array


@jax.jit
def _is_open(state: _State) -> jax.Array:
    return (state.reach != state.wanted) & (state.low + 1 < state.high)


@jax.jit
def _narrowed(state: _State, counts: jax.Array) -> _State:
    """Return the state after a pass."""
    low, high, reach, above, wanted, pivots = state
    up, down = counts >= wanted, counts < wanted
    low = jnp.maximum(low, jnp.max(jnp.where(up, pivots, low)))
    reach = jnp.minimum(reach, jnp.min(jnp.where(up, counts, reach)))
    high = jnp.minimum(high, jnp.min(jnp.where(down, pivots, high)))
    above = jnp.maximum(above, jnp.max(jnp.where(down, counts, above)))
    return _State(low, high, reach, above, wanted, _closing_in(low, high, reach, above, wanted))


@jax.jit
def _closing_in(low: Any, high: Any, reach: Any, above: Any, wanted: Any) -> jax.Array:
    """Return the next pivots: around where the k-th is if keys lie evenly, and in the middle."""
    between = jnp.maximum(reach - above, 1).astype(jnp.float32)
    share = (reach - wanted).astype(jnp.float32) / between
    deviation = jnp.sqrt(jnp.maximum(share * (1 - share), 1 / between) / between)
    shares = jnp.where(_SPREAD == 0, 0.5, share + _SPREAD * deviation)
    steps = jnp.clip(shares, 0, 1 - 2**-20) * (high - low).astype(jnp.float32)
    return jnp.clip(low + steps.astype(low.dtype), low + 1, jnp.maximum(high - 1, low + 1))


@jax.jit
def _ranks(wanted: jax.Array, sampled: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return ranks in a sample between which, almost surely, the k-th of all lies."""
    rank = wanted.astype(jnp.float32) * (sampled / size)
    margin = 4 * jnp.sqrt(rank * jnp.maximum(1 - rank / sampled, 0)) + 2
    low, high = (jnp.clip(each.astype(jnp.int32), 1, sampled)
                 for each in (rank + margin, rank - margin))  # fmt: skip
    return low, high


@jax.jit
def _first(low: jax.Array, high: jax.Array) -> jax.Array:
    """Return the first pivots, evenly between two."""
    steps = jnp.arange(_SPREAD.size, dtype=low.dtype)
    return low + 1 + steps * ((high - low) // (_SPREAD.size - 1))


def _ends(dtype: str) -> tuple[jax.Array, jax.Array]:
    """Return a key that is never larger than another, and one that is always."""
    word = _WORDS[dtype]
    return jnp.asarray(-1, word), jnp.asarray(np.iinfo(word).max - 1, word)


def _checked_size(size: int) -> int:
    if size >= 2**31:
        raise PruningError(f"{size} scores to compare are 2**31 or more: split them")
    return size


# ---------------------------------------------------------------- passes over one array

_How = tuple[Scored, Hashable, str]


def _keys(how: _How, operands: tuple[Any, ...]) -> jax.Array:
    scored, settings, dtype = how
    return as_keys(*scored(settings, *operands), dtype)


def _count_each(how: _How, operands: tuple[Any, ...], pivots: jax.Array) -> jax.Array:
    inputs, own = lax.optimization_barrier((operands, pivots))
    return _count_reaching(_keys(how, inputs), own)


def _thin_each(how: _How, operands: tuple[Any, ...]) -> jax.Array:
    return _thin(_keys(how, operands))


def _count_sample(_: None, sample: jax.Array, pivots: jax.Array) -> jax.Array:
    return _count_reaching(sample, pivots)


def _count_last_each(
    how: _How, operands: tuple[Any, ...], threshold: jax.Array, start: Any, size: Any,
    pivots: jax.Array,
) -> jax.Array:  # fmt: skip
    inputs, own = lax.optimization_barrier((operands, pivots))
    return _count_reaching(_last_positions(_keys(how, inputs), threshold, start, size), own)


def _mask_each(
    how: _How, operands: tuple[Any, ...], threshold: jax.Array, cut: jax.Array, start: Any,
    size: Any,
) -> jax.Array:  # fmt: skip
    keys = _keys(how, operands)
    return (keys > threshold) | (_last_positions(keys, threshold, start, size) >= cut)


def _added(counts: Mapping[str, jax.Array]) -> jax.Array:
    first, *rest = counts.values()
    return sum(rest, first)


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


def _count_reaching(keys: jax.Array, pivots: jax.Array) -> jax.Array:
    """Count the keys that reach each pivot.

    One reduction with several operands, because XLA's CPU backend vectorises this form; a single
    integer sum becomes a slow tree of windows there.
    """
    counts = lax.reduce(
        tuple((keys >= pivot).astype(jnp.int32) for pivot in pivots),
        (np.int32(0),) * len(pivots),
        lambda left, right: tuple(a + b for a, b in zip(left, right, strict=True)),
        tuple(range(keys.ndim)),
    )
    return jnp.stack(counts)


def _last_positions(keys: jax.Array, threshold: jax.Array, start: Any, size: Any) -> jax.Array:
    """Return ``size - 1 - position``, row-major, where a key equals the threshold; elsewhere -1.

    Positions are largest first, as keys are. Without a reshape, which would gather a sharded array.
    """
    position = jnp.broadcast_to(jnp.asarray(size - 1 - start, jnp.int32), keys.shape)
    for axis in range(keys.ndim):
        stride = math.prod(keys.shape[axis + 1 :])
        position = position - lax.broadcasted_iota(jnp.int32, keys.shape, axis) * jnp.int32(stride)
    return jnp.where(keys == threshold, position, -1)

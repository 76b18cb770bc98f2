"""What competes with what: weights of a layer, of all layers, of a group; alone or in blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lap_jax.errors import PruningError
from lap_jax.graph.layers import nearest
from lap_jax.scoring.norms import add_up, in_memory, near_largest, sum_squares
from lap_jax.selection.sparsity import kept_count
from lap_jax.selection.top_k import Scored, keep_largest_each


class Scope(NamedTuple):
    """What competes with what, and what is kept or removed as a whole.

    Attributes:
      compare: "layer": the weights of each layer; "global": those of all layers together.
      normalize: for "global", because layers live on different scales. "norm" divides the scores of
        a layer by their Euclidean norm, "lamp" squares each and divides by the sum of the squares
        that are not smaller (Lee et al. 2021; it sorts every layer, which takes longer than all the
        rest), "none" compares scores as they are.
      unit: (1, 1), single weights; (b, c), blocks of b inputs by c outputs at each place of the
        window; "channel", all weights of an output channel. A unit's score is the Euclidean norm of
        its scores.
      group: (n, m) keeps n of each m consecutive weights along ``axis``, "n:m sparsity"; the
        sparsity of a layer must then be 1 - n / m, or 0 to leave it whole.
      axis: of the groups: -2 the inputs, -1 the outputs.
    """

    compare: str = "layer"
    normalize: str = "norm"
    unit: tuple[int, int] | str = (1, 1)
    group: tuple[int, int] | None = None
    axis: int = -2


class Contest(NamedTuple):
    """The scores of one layer, computed wherever they are needed and not kept.

    Attributes:
      function, operands: ``function(*operands)`` gives the scores, of ``shape``.
      shape: of the layer's kernel.
      among: if given, a boolean array: the weights that still take part.
    """

    function: Scored
    operands: tuple[Any, ...]
    shape: tuple[int, ...]
    among: jax.Array | None = None


def checked_scope(scope: str | Scope) -> Scope:
    """Return a scope, by its name or as it is, with every choice checked.

    Raises:
      PruningError: for an unknown name or choices that do not go together.
    """
    if isinstance(scope, str):
        scope = Scope(compare=scope)
    for field, allowed in (
        ("compare", ("layer", "global")),
        ("normalize", ("norm", "lamp", "none")),
    ):
        value = getattr(scope, field)
        if value not in allowed:
            hint = nearest(str(value), allowed)
            raise PruningError(f"scope: {field} is {value!r}, expected one of {allowed}{hint}")
    if scope.unit != "channel" and not _is_pair(scope.unit):
        raise PruningError(f"scope: unit is {scope.unit!r}, expected 'channel' or a block (b, c)")
    if scope.group is not None:
        if not _is_pair(scope.group) or scope.group[0] >= scope.group[1]:
            raise PruningError(f"scope: group is {scope.group!r}, expected (n, m) with 0 < n < m")
        if scope.compare != "layer" or scope.unit != (1, 1):
            raise PruningError("scope: a group (n, m) goes with single weights of one layer alone")
    return scope


def units(scope: Scope, name: str, shape: Sequence[int]) -> int:
    """Return how many units compete: of a layer, or of a group.

    Raises:
      PruningError: if the layer does not divide into blocks or groups.
    """
    if len(shape) < 2 and (scope.group or scope.unit != (1, 1)):
        raise PruningError(f"layer {name!r} of shape {tuple(shape)} has no inputs and outputs")
    if scope.group is not None:
        size = shape[_axis(scope, name, shape)]
        if size % scope.group[1]:
            raise PruningError(
                f"layer {name!r} has {size} weights along axis {scope.axis}, which are no groups "
                f"of {scope.group[1]}: leave it whole with sparsity 0"
            )
        return scope.group[1]
    if scope.unit == "channel":
        return shape[-1]
    rows, columns = _block(scope)
    if scope.unit != (1, 1) and (shape[-2] % rows or shape[-1] % columns):
        raise PruningError(
            f"layer {name!r} of shape {tuple(shape)} does not divide into blocks of "
            f"{rows} x {columns} (inputs x outputs)"
        )
    return math.prod(shape) // (rows * columns)


def kept_units(
    scope: Scope, shapes: Mapping[str, Sequence[int]], levels: Sequence[float], share: float = 1.0
) -> list[int]:
    """Return how many units stay: one number per layer, or a single one for "global".

    Args:
      scope: a checked scope.
      shapes: of the kernels, by layer name.
      levels: the sparsity of each layer.
      share: the part of the sparsity that is reached, of a run in steps.

    Raises:
      PruningError: if a group or the global scope is given other sparsities than it can have.
    """
    named = list(zip(shapes, levels, strict=True))
    if scope.group is not None:
        kept, of = scope.group
        for name, level in named:
            if level and not math.isclose(level, 1 - kept / of, abs_tol=1e-6):
                raise PruningError(
                    f"layer {name!r} is given sparsity {level:g}: {kept}:{of} groups have "
                    f"{1 - kept / of:g}, and 0 leaves a layer whole"
                )
            if level:
                units(scope, name, shapes[name])
        return [kept_count(of, level * share) for level in levels]
    counts = [units(scope, name, shape) for name, shape in shapes.items()]
    if scope.compare == "global":
        if len(set(levels)) > 1:
            raise PruningError(
                "global scope compares all layers: give one sparsity for all, and leave a layer "
                "out by leaving it out of the scores"
            )
        return [kept_count(sum(counts), levels[0] * share)]
    return [kept_count(count, level * share) for count, level in zip(counts, levels, strict=True)]


def select(
    scope: Scope, contests: Mapping[str, Contest], kept: jax.Array
) -> dict[str, jax.Array]:  # fmt: skip
    """Return the masks of the largest scores.

    Args:
      scope: a checked scope.
      contests: the scores of each layer.
      kept: from `kept_units`, as an array; may be traced.

    Returns:
      ``{layer name: boolean array of the kernel's shape}``.
    """
    if scope.group is not None:
        return {
            name: _largest_of_groups(scope, name, contest, kept[index])
            for index, (name, contest) in enumerate(contests.items())
        }
    ready = {name: _of_units(scope, contest) for name, contest in contests.items()}
    if scope.compare == "global":
        if scope.normalize != "none":
            normalize = _by_norm if scope.normalize == "norm" else _lamp
            ready = {name: normalize(contest) for name, contest in ready.items()}
        found = keep_largest_each([[_scored(contest) for contest in ready.values()]], kept)[0]
    else:
        each = keep_largest_each([[_scored(contest)] for contest in ready.values()], kept)
        found = [masks[0] for masks in each]
    masks = dict(zip(ready, found, strict=True))
    return {name: _to_weights(scope, mask, contests[name].shape) for name, mask in masks.items()}


def _scored(contest: Contest) -> tuple[Scored, tuple[Any, ...]]:
    if contest.among is None:
        return contest.function, contest.operands
    return (
        lambda among, *operands: (contest.function(*operands), among),
        (contest.among, *contest.operands),
    )


def _of_units(scope: Scope, contest: Contest) -> Contest:
    """Score blocks or channels in the place of weights."""
    if scope.unit == (1, 1):
        return contest
    scores = contest.function(*contest.operands)
    near = near_largest(scores)
    among = contest.among
    if scope.unit == "channel":
        shape: tuple[int, ...] = (-1, contest.shape[-1])
        totals = sum_squares(scores.reshape(shape), 0, near)
        among = None if among is None else among.reshape(shape).any(0)
    else:
        shape = _blocked(scope, contest.shape)
        totals = add_up(sum_squares(scores.reshape(shape), -1, near), -2)
        among = None if among is None else among.reshape(shape).any((-3, -1))
    return Contest(lambda norms: norms, (near * jnp.sqrt(totals),), totals.shape, among)


def _to_weights(scope: Scope, mask: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if scope.unit == (1, 1):
        return mask
    if scope.unit == "channel":
        return jnp.broadcast_to(mask, shape)
    return jnp.broadcast_to(mask[..., :, None, :, None], _blocked(scope, shape)).reshape(shape)


def _blocked(scope: Scope, shape: tuple[int, ...]) -> tuple[int, ...]:
    rows, columns = _block(scope)
    return (*shape[:-2], shape[-2] // rows, rows, shape[-1] // columns, columns)


def _largest_of_groups(
    scope: Scope, name: str, contest: Contest, kept: jax.Array | int
) -> jax.Array:
    """Keep the largest ``kept`` of each group, by counting for each weight those ahead of it."""
    assert scope.group is not None
    axis, size = _axis(scope, name, contest.shape), scope.group[1]
    if contest.shape[axis] % size:
        return jnp.ones(contest.shape, bool)  # `kept_units` let it pass: it is left whole
    scores = jnp.abs(contest.function(*contest.operands))
    if contest.among is not None:
        scores = jnp.where(contest.among, scores, -1)
    scores = jnp.where(jnp.isnan(scores), jnp.inf, scores)
    grouped = (*contest.shape[:axis], -1, size, *contest.shape[axis + 1 :])
    scores = scores.reshape(grouped)
    place = lax.broadcasted_iota(jnp.int32, scores.shape, axis + 1)
    ahead = jnp.zeros(scores.shape, jnp.int32)
    for other in range(size):
        rival = lax.slice_in_dim(scores, other, other + 1, axis=axis + 1)
        ahead = ahead + ((rival > scores) | ((rival == scores) & (other < place)))
    return (ahead < kept).reshape(contest.shape)


def _by_norm(contest: Contest) -> Contest:
    def scores() -> jax.Array:
        # A barrier for each use: shared, the scores would be written to memory.
        return contest.function(*lax.optimization_barrier(contest.operands))

    near = near_largest(scores())
    folded = scores().reshape(-1, *contest.shape[-2:])
    total = in_memory(sum_squares(folded, 0, near), near)
    while total.ndim:
        total = add_up(total, -1)
    scale = near * jnp.sqrt(total)
    factor = jnp.where(scale > 0, 1 / scale, 1)
    return contest._replace(
        function=lambda factor, *operands: contest.function(*operands) * factor,
        operands=(factor, *contest.operands),
    )


def _lamp(contest: Contest) -> Contest:
    scores = contest.function(*contest.operands)
    flat = (scores / near_largest(scores)).reshape(-1)
    places = lax.iota(jnp.int32, flat.size)
    rising, places = lax.sort((flat, places), num_keys=1)
    tail = lax.cumsum(jnp.square(rising), reverse=True)
    # Of equal scores all have the sum that includes all of them: that of the first.
    first = jnp.concatenate([jnp.ones(1, bool), rising[1:] != rising[:-1]])
    tail = lax.cummin(jnp.where(first, tail, jnp.inf))
    lamp = jnp.square(rising) / jnp.where(tail > 0, tail, 1)
    scores = jnp.zeros_like(flat).at[places].set(lamp, unique_indices=True)
    return contest._replace(
        function=lambda scores: scores, operands=(scores.reshape(contest.shape),)
    )


def _block(scope: Scope) -> tuple[int, int]:
    assert not isinstance(scope.unit, str)
    return scope.unit


def _axis(scope: Scope, name: str, shape: Sequence[int]) -> int:
    if not -len(shape) <= scope.axis < len(shape):
        raise PruningError(f"layer {name!r} of shape {tuple(shape)} has no axis {scope.axis}")
    return scope.axis % len(shape)


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(isinstance(each, int) and each > 0 for each in value)
    )

"""What competes with what: weights of a layer, of all layers, of a group; alone or in blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Sharding

from lap_jax.batching import for_each
from lap_jax.errors import PruningError
from lap_jax.meshes import as_laid_out
from lap_jax.scoring.norms import (
    add_up,
    in_memory,
    is_tiny,
    lamp,
    lifted,
    lowered,
    near_largest,
    sum_squares,
)
from lap_jax.selection.alike import select_alike, shares
from lap_jax.selection.scope import Scope
from lap_jax.selection.sparsity import kept_count
from lap_jax.selection.top_k import as_keys, keep_largest, largest, largest_of_all


class LayerScores(NamedTuple):
    """The scores of one layer, computed wherever they are needed and not kept.

    Attributes:
      settings, inputs: ``stage(settings, *inputs)`` gives a function and its operands, and
        ``function(*operands)`` the scores; ``stage`` is the same for all layers.
      shape: of the layer's kernel.
      where: if given, a boolean array: the weights that still take part.
      sharding: how the mask is to lie; None leaves it to the compiler.
    """

    settings: Hashable
    inputs: tuple[Any, ...]
    shape: tuple[int, ...]
    where: jax.Array | None = None
    sharding: Sharding | None = None


Stage = Callable[..., tuple[Callable[..., jax.Array], tuple[Any, ...]]]


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
    if scope.unit == "neuron":
        raise PruningError("scope: whole neurons are told by a graph: use lookahead_masks")
    if scope.unit == "channel":
        return shape[_axis(scope, name, shape)]
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
    scope: Scope,
    stage: Stage,
    layers: Mapping[str, LayerScores],
    kept: Any,
    in_memory: bool = False,
    twin: Callable[..., np.ndarray | None] | None = None,
) -> dict[str, jax.Array]:
    """Return the masks of the largest scores.

    Args:
      scope: a checked scope.
      stage: what makes scores of the settings and inputs of a layer.
      layers: the scores of each layer.
      kept: from `kept_units`, by layer (global: one); may be traced.
      in_memory: whether scores are better kept than computed in each pass.
      twin: the same scores in NumPy, to the bit; it gives None where it cannot tell.

    Returns:
      ``{layer name: boolean array of the kernel's shape}``.
    """
    if scope.compare == "global":
        return _select_globally(scope, stage, layers, kept[0], in_memory)
    counts = {name: kept[index] for index, name in enumerate(layers)}
    alike = {
        name: (each.settings, each.inputs, each.where) for name, each in layers.items()
        if scope.group is None and scope.unit == (1, 1)
        and shares(each.shape, (each.inputs, each.where, counts[name]))
    }  # fmt: skip
    shapes = {name: layers[name].shape for name in alike}
    masks = select_alike(stage, alike, shapes, counts, twin)
    calls = {
        name: ((scope, stage, each.settings, each.shape, each.sharding),
               (each.inputs, each.where, counts[name]))
        for name, each in layers.items() if name not in alike
    }  # fmt: skip
    masks |= for_each(_select_layer, calls)
    return {name: masks[name] for name in layers}


def _select_layer(
    how: tuple[Scope, Stage, Hashable, tuple[int, ...], Sharding | None],
    inputs: tuple[Any, ...], where: jax.Array | None, kept: jax.Array,
) -> jax.Array:  # fmt: skip
    scope, stage, settings, shape, sharding = how
    function, operands = stage(settings, *inputs)
    if scope.group is not None:
        mask = _largest_of_groups(scope, function(*operands), where, kept)
    elif scope.unit == (1, 1):
        mask = largest(lambda where, *each: (function(*each), where), (where, *operands), kept)
    else:
        scores, where = _of_units(scope, function(*operands), where)
        mask = _to_weights(scope, keep_largest(scores, kept, where), shape)
    return as_laid_out(mask, sharding)


def _select_globally(
    scope: Scope, stage: Stage, layers: Mapping[str, LayerScores], kept: Any, in_memory: bool
) -> dict[str, jax.Array]:
    """Compare all layers: scores of single weights pass by pass, others from memory."""
    calls: dict[str, tuple[Hashable, tuple[Any, ...]]] = {
        name: ((scope, stage, each.settings), (each.inputs, each.where))
        for name, each in layers.items()
    }
    if in_memory or scope.unit != (1, 1) or scope.normalize == "lamp":
        ready = for_each(_in_memory, calls)
        calls = {name: ((scope, _as_it_is, None), ((scores,), where))
                 for name, (scores, where) in ready.items()}  # fmt: skip
    if scope.normalize == "norm":
        norms = for_each(_by_norm, calls)
        calls = {name: (how, (*inputs, norms[name])) for name, (how, inputs) in calls.items()}
    masks = largest_of_all(_compared, calls, kept)
    return for_each(
        _finished,
        {
            name: ((scope, each.shape, each.sharding), (masks[name],))
            for name, each in layers.items()
        },
    )


_How = tuple[Scope, Stage, Hashable]


def _compared(
    how: _How, inputs: tuple[Any, ...], where: jax.Array | None,
    norm: tuple[jax.Array, jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array | None]:  # fmt: skip
    """Return scores as they are compared with those of other layers."""
    _, stage, settings = how
    function, operands = stage(settings, *inputs)
    scores = function(*operands)
    if norm is not None:
        tiny, factor = norm
        scores = lifted(scores, tiny) * factor
    return scores, where


def _in_memory(
    how: _How, inputs: tuple[Any, ...], where: jax.Array | None
) -> tuple[jax.Array, jax.Array | None]:
    """Return the scores of units, for LAMP its own."""
    scope, stage, settings = how
    function, operands = stage(settings, *inputs)
    scores, where = _of_units(scope, function(*operands), where)
    return (lamp(scores) if scope.normalize == "lamp" else scores), where


def _as_it_is(_: None, scores: jax.Array) -> tuple[Callable[..., jax.Array], tuple[Any, ...]]:
    return lambda scores: scores, (scores,)


def _finished(
    how: tuple[Scope, tuple[int, ...], Sharding | None], mask: jax.Array
) -> jax.Array:  # fmt: skip
    scope, shape, sharding = how
    return as_laid_out(_to_weights(scope, mask, shape), sharding)


def _of_units(
    scope: Scope, scores: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array | None]:
    """Score blocks or channels in the place of weights."""
    if scope.unit == (1, 1):
        return scores, where
    tiny = is_tiny(scores)
    scores = lifted(scores, tiny)
    near = near_largest(scores)
    if scope.unit == "channel":
        totals = _total(scope, _channels_last(scope, scores), 0, near)
        where = None if where is None else _channels_last(scope, where).any(0)
    else:
        shape = _blocked(scope, scores.shape)
        totals = add_up(_total(scope, scores.reshape(shape), -1, near), -2)
        where = None if where is None else where.reshape(shape).any((-3, -1))
    found = jnp.sqrt(totals) if scope.unit_norm == "l2" else totals
    return lowered(near * found, tiny), where


def _total(scope: Scope, scores: jax.Array, axis: int, near: jax.Array) -> jax.Array:
    """Add up along an axis, in an order of its size alone, what a unit's norm is made of."""
    if scope.unit_norm == "l2":
        return sum_squares(scores, axis, near)
    return add_up(scores / near, axis)


def _channels_last(scope: Scope, array: jax.Array) -> jax.Array:
    """Return weights ``[others, channels]``, of the side that the scope names."""
    array = array.swapaxes(-1, -2) if scope.axis == -2 else array
    return array.reshape(-1, array.shape[-1])


def _to_weights(scope: Scope, mask: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if scope.unit == (1, 1):
        return mask
    if scope.unit == "channel":
        return jnp.broadcast_to(mask[:, None] if scope.axis == -2 else mask, shape)
    return jnp.broadcast_to(mask[..., :, None, :, None], _blocked(scope, shape)).reshape(shape)


def _blocked(scope: Scope, shape: tuple[int, ...]) -> tuple[int, ...]:
    rows, columns = _block(scope)
    return (*shape[:-2], shape[-2] // rows, rows, shape[-1] // columns, columns)


def _largest_of_groups(
    scope: Scope, scores: jax.Array, where: jax.Array | None, kept: jax.Array | int
) -> jax.Array:
    """Keep the largest ``kept`` of each group, by counting for each weight those ahead of it."""
    assert scope.group is not None
    axis, size = _along(scope) % scores.ndim, scope.group[1]
    if scores.shape[axis] % size:
        return jnp.ones(scores.shape, bool)  # `kept_units` let it pass: it is left whole
    keys = as_keys(scores, where, jnp.promote_types(scores.dtype, jnp.float32).name)
    keys = keys.reshape(*scores.shape[:axis], -1, size, *scores.shape[axis + 1 :])
    place = lax.broadcasted_iota(jnp.int32, keys.shape, axis + 1)
    ahead = jnp.zeros(keys.shape, jnp.int32)
    for other in range(size):
        rival = lax.slice_in_dim(keys, other, other + 1, axis=axis + 1)
        ahead = ahead + ((rival > keys) | ((rival == keys) & (other < place)))
    return (ahead < kept).reshape(scores.shape)


def _by_norm(
    how: _How, inputs: tuple[Any, ...], where: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Return whether a layer's scores are tiny, and one over their Euclidean norm (1 for zero)."""
    del where
    _, stage, settings = how
    function, operands = stage(settings, *inputs)

    def scores() -> jax.Array:
        # A barrier for each use: shared, the scores would be written to memory.
        return function(*lax.optimization_barrier(operands))

    tiny = is_tiny(scores())
    near = near_largest(lifted(scores(), tiny))
    found = lifted(scores(), tiny)
    total = in_memory(sum_squares(found.reshape(-1, *found.shape[-2:]), 0, near), near)
    while total.ndim:
        total = add_up(total, -1)
    scale = near * jnp.sqrt(total)
    return tiny, jnp.where(scale > 0, 1 / scale, 1)


def whole_units(scope: Scope, mask: jax.Array) -> jax.Array:
    """Return the mask with every unit whole of which it holds a weight."""
    if scope.unit == (1, 1):
        return mask
    if scope.unit == "channel":
        return _to_weights(scope, _channels_last(scope, mask).any(0), mask.shape)
    blocks = mask.reshape(_blocked(scope, mask.shape)).any((-3, -1))
    return _to_weights(scope, blocks, mask.shape)


def least_left(scope: Scope, mask: jax.Array) -> jax.Array:
    """Return how many units a mask leaves; with groups, of the group that has the fewest."""
    if scope.group is not None:
        axis = _along(scope) % mask.ndim
        if mask.shape[axis] % scope.group[1]:
            return jnp.where(mask.all(), scope.group[1], 0)  # a layer that was left whole
        grouped = (*mask.shape[:axis], -1, scope.group[1], *mask.shape[axis + 1 :])
        return mask.reshape(grouped).sum(axis + 1).min()
    if scope.unit == "channel":
        return _channels_last(scope, mask).any(0).sum()
    if scope.unit != (1, 1):
        return mask.reshape(_blocked(scope, mask.shape)).any((-3, -1)).sum()
    return mask.sum()


def _block(scope: Scope) -> tuple[int, int]:
    assert not isinstance(scope.unit, str)
    return scope.unit


def _along(scope: Scope) -> int:
    assert scope.axis is not None  # `checked_scope` puts it in
    return scope.axis


def _axis(scope: Scope, name: str, shape: Sequence[int]) -> int:
    axis = _along(scope)
    if not -len(shape) <= axis < len(shape):
        raise PruningError(f"layer {name!r} of shape {tuple(shape)} has no axis {axis}")
    return axis % len(shape)

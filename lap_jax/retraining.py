"""Retraining a pruned network: pruned weights are zero and stay zero."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lap_jax.errors import PruningError
from lap_jax.packing import is_packed, packed, unpacked
from lap_jax.paths import checked_mask, is_array, leaves_by_path, map_by_path, shapes_by_path


def apply_masks(params: Any, masks: Any) -> Any:
    """Return ``params`` with zero wherever a mask is False.

    Args:
      params: the parameters, or any tree of arrays with the same paths.
      masks: as from `lookahead_masks`; matched by path, so that a dict of masks fits an
        ``nnx.State`` and the other way round. A mask that is None or missing keeps its parameter.

    Returns:
      A tree like ``params``, dtypes kept; a NaN at a pruned place becomes zero too.

    Raises:
      PruningError: if a mask is not boolean, has no parameter or another shape, or no parameter
        has a mask.
    """
    _check_some(masks)
    return _applied(params, masks)


def _applied(params: Any, masks: Any) -> Any:
    """Return masked parameters, where optax may have masked out whole trees."""
    by_path = _match(masks, params)

    def masked(path: str, leaf: Any) -> Any:
        return jnp.where(by_path[path], leaf, jnp.zeros_like(leaf)) if path in by_path else leaf

    return map_by_path(masked, params)


class KeepPrunedState(NamedTuple):
    """State of `keep_pruned`: the masks by path, and the inner optimizer's state.

    The masks are state, not code: put in others of the same shapes and a compiled training step
    serves the next round of pruning; under `jax.vmap` they carry the axis of the networks. Packed
    ones are uint8, eight weights a byte along the last axis; ``masks_in(state, params)`` unpacks.
    """

    masks: dict[str, jax.Array]
    inner_state: optax.OptState


def keep_pruned(
    inner: optax.GradientTransformation, masks: Any, *, pack: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer so that pruned weights are zero after every step.

    Gradients of pruned weights are zeroed before ``inner`` sees them, and so are the weights, so
    that its moments and its copies of the parameters are zero there. Its update of a pruned weight
    is replaced by ``-w``, so that momentum, weight decay or noise cannot revive the weight.
    Equivalent to training ``loss(params * masks)``.

    Updates have the type that `optax.apply_updates` adds them in, the wider of their own and the
    parameter's: ``-w`` rounded to bfloat16 would not take a float32 weight to zero. Wrappers that
    choose between updates and gradients (`optax.apply_if_finite`, `optax.conditionally_mask`) want
    one type of both: where gradients are narrower than the parameters, put them inside.

    In an `optax.chain`, transformations that follow this one must leave zero updates zero and must
    not rescale the others: put it last. Inside `optax.masked` and `optax.multi_transform` the
    leaves that are not selected are passed by. Wrappers that train one copy of the parameters and
    keep another (`optax.lookahead`, averages) hold zeros in both if `apply_masks` comes before
    they start.

    The masks of `optax.masked` are another thing: one truth value a leaf, which says whether the
    optimizer sees that leaf. It cannot keep single weights at zero: ``optax.masked(adam, masks)``
    with masks from `lookahead_masks` ends in "The truth value of an array with more than one
    element is ambiguous". Wrap the optimizer in `keep_pruned`, and where some leaves are to be
    frozen, that in `optax.masked` with a truth value a leaf.

    Args:
      inner: any optimizer; `optax.identity` makes this a plain last link of a chain.
      masks: as from `lookahead_masks`, matched by path.
      pack: hold the masks as bits, an eighth of the memory; updates are the same, bit for bit. Axes
        but the last lie over devices as the masks do, the last where each device holds a multiple
        of eight of its entries.

    Returns:
      A gradient transformation whose ``update`` needs ``params``.

    Raises:
      PruningError: in ``init`` or ``update``, if masks and parameters do not fit (`apply_masks`);
        in ``init``, if a pruned weight is NaN or infinite, which no update takes to zero (under a
        trace this cannot be seen, and the weight is NaN from then on: use `apply_masks` first); in
        ``update``, if ``params`` is missing, or the state is one that ``init`` did not make.

    Example:
      >>> masks = {"kernel": jnp.array([True, False])}
      >>> params = apply_masks({"kernel": jnp.ones(2)}, masks)
      >>> optimizer = keep_pruned(optax.adamw(0.1), masks)
      >>> state = optimizer.init(params)
      >>> updates, state = optimizer.update({"kernel": jnp.ones(2)}, state, params)
      >>> float(optax.apply_updates(params, updates)["kernel"][1])
      0.0
    """
    _check_some(masks)
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> KeepPrunedState:
        # Copied, because a training step may donate its state and the caller keeps the masks.
        own = {path: jnp.array(mask, copy=True) for path, mask in _match(masks, params).items()}
        _check_finite(own, params)
        inner_state = inner.init(_applied(params, own))
        held = {path: packed(mask) for path, mask in own.items()} if pack else own
        return KeepPrunedState(held, inner_state)

    def update(
        updates: optax.Updates,
        state: KeepPrunedState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, KeepPrunedState]:
        check_update("keep_pruned", params, state, KeepPrunedState)
        own = unpacked_masks(state.masks, params)
        updates, inner_state = inner.update(
            _applied(updates, own),
            state.inner_state,
            _applied(params, own),
            **extra_args,
        )
        updates = pruned_to_zero(updates, params, own)
        return updates, KeepPrunedState(state.masks, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def unpacked_masks(masks: dict[str, jax.Array], params: Any) -> dict[str, jax.Array]:
    """Return the masks of an optimizer's state as truth values, of the shapes of the parameters.

    Raises:
      PruningError: if one is packed, and the parameters do not tell its shape.
    """
    if not any(map(is_packed, masks.values())):
        return masks
    shapes = shapes_by_path(params) if params is not None else {}
    for path, mask in masks.items():
        if is_packed(mask) and path not in shapes:
            raise PruningError(
                f"the mask of {path!r} is packed, and only the parameters tell its shape: pass the "
                "whole tree, as in masks_in(state, params)"
            )
    return {path: unpacked(path, mask, shapes[path]) if is_packed(mask) else mask
            for path, mask in masks.items()}  # fmt: skip


def check_update(name: str, params: Any, state: Any, kind: type) -> None:
    """Refuse what an ``update`` cannot work with.

    Args:
      name: of the transformation.
      params, state: as ``update`` was given them.
      kind: of the state that ``init`` makes.

    Raises:
      PruningError: without parameters, or for another optimizer's state.
    """
    if params is None:
        raise PruningError(f"{name} needs the parameters: call update(grads, state, params)")
    if not isinstance(state, kind):
        raise PruningError(
            f"{name} was given a state of {type(state).__name__}, from before the optimizer was "
            f"wrapped: expected {kind.__name__}; make one with optimizer.init(params), and a "
            "TrainState with state.replace(tx=optimizer, opt_state=optimizer.init(state.params))"
        )


def pruned_to_zero(
    updates: optax.Updates, params: optax.Params, masks: dict[str, jax.Array]
) -> optax.Updates:
    """Return ``updates`` with ``-w`` for each pruned weight ``w``.

    Args:
      updates: as from an optimizer; whatever optax masks out is passed by.
      params: the parameters that they will be added to.
      masks: by path; each of its leaf's shape, or a scalar.

    Returns:
      Updates of the types that `optax.apply_updates` adds in, in which ``-w`` is exact.
    """
    weights = leaves_by_path(params)

    def place(path: str, step: jax.Array) -> jax.Array:
        weight = jnp.asarray(weights[path])
        dtype = jnp.result_type(weight, step)
        return jnp.where(masks[path], jnp.astype(step, dtype), -jnp.astype(weight, dtype))

    return map_by_path(lambda path, step: place(path, step) if path in masks else step, updates)


def _check_finite(masks: dict[str, jax.Array], params: optax.Params) -> None:
    """Refuse pruned weights that are NaN or infinite, where values can be seen."""
    leaves = leaves_by_path(params)
    counts = {
        path: _count_not_finite(leaves[path], mask)
        for path, mask in masks.items()
        if jnp.issubdtype(jnp.result_type(leaves[path]), jnp.inexact)
    }
    for path, count in counts.items():
        if not isinstance(count, jax.core.Tracer) and count:
            raise PruningError(
                f"parameter {path!r} has {int(count)} pruned weights that are NaN or infinite, "
                "which no update takes to zero: pass apply_masks(params, masks) to init, and train "
                "from there"
            )


@jax.jit
def _count_not_finite(leaf: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(mask, False, ~jnp.isfinite(leaf)))


def _check_some(masks: Any) -> None:
    if not leaves_by_path(masks):
        raise PruningError("the tree of masks holds none: pass what lookahead_masks returned")


def _match(masks: Any, tree: Any) -> dict[str, jax.Array]:
    """Return by path the masks of a tree's arrays; what optax masks out is passed by."""
    by_path = leaves_by_path(masks)
    leaves = leaves_by_path(tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    matched = {}
    for path, leaf in leaves.items():
        if isinstance(leaf, optax.MaskedNode):
            inside = f"{path}/" if path else ""  # A tree may be masked out as a whole.
            by_path = {
                name: mask
                for name, mask in by_path.items()
                if name != path and not name.startswith(inside)
            }
            continue
        mask = by_path.pop(path, None)
        if mask is None or not is_array(leaf):
            continue
        mask = checked_mask(f"the mask of parameter {path!r}", mask)
        if jnp.ndim(mask) and jnp.shape(mask) != jnp.shape(leaf):
            raise PruningError(
                f"parameter {path!r} has shape {jnp.shape(leaf)}, its mask {jnp.shape(mask)}: "
                "make the masks from these parameters"
            )
        matched[path] = mask
    for path, mask in by_path.items():
        if jnp.ndim(mask):  # a scalar stands for what is no kernel, or no array at all
            raise PruningError(
                f"mask {path!r} has no parameter: make the masks from these parameters"
            )
    return matched

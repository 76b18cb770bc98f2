"""Retraining a pruned network: pruned weights are zero and stay zero."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lap_jax.errors import PruningError
from lap_jax.paths import leaves_by_path, map_by_path


def apply_masks(params: Any, masks: Any) -> Any:
    """Return ``params`` with zero wherever a mask is False.

    Args:
      params: the parameters, or any tree of arrays with the same paths.
      masks: as from `lookahead_masks`; matched by path, so that a dict of masks fits an
        ``nnx.State`` and the other way round.

    Returns:
      A tree like ``params``, dtypes kept; a NaN at a pruned place becomes zero too.

    Raises:
      PruningError: if the paths or shapes of the two trees differ.
    """
    by_path = _match(masks, params)
    return map_by_path(
        lambda path, leaf: jnp.where(by_path[path], leaf, jnp.zeros_like(leaf)), params
    )


class KeepPrunedState(NamedTuple):
    """State of `keep_pruned`: the masks by path, and the inner optimizer's state.

    The masks are state, not code: put in others of the same shapes and a compiled training step
    serves the next round of pruning; under `jax.vmap` they carry the axis of the networks.
    """

    masks: dict[str, jax.Array]
    inner_state: optax.OptState


def keep_pruned(
    inner: optax.GradientTransformation, masks: Any
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

    Args:
      inner: any optimizer; `optax.identity` makes this a plain last link of a chain.
      masks: as from `lookahead_masks`, matched by path.

    Returns:
      A gradient transformation whose ``update`` needs ``params``.

    Raises:
      PruningError: in ``init`` or ``update``, if the paths or shapes differ from the masks'; in
        ``init``, if a pruned weight is NaN or infinite, which no update takes to zero (under a
        trace this cannot be seen, and the weight is NaN from then on: use `apply_masks` first); in
        ``update``, if ``params`` is missing.

    Example:
      >>> masks = {"kernel": jnp.array([True, False])}
      >>> params = apply_masks({"kernel": jnp.ones(2)}, masks)
      >>> optimizer = keep_pruned(optax.adamw(0.1), masks)
      >>> state = optimizer.init(params)
      >>> updates, state = optimizer.update({"kernel": jnp.ones(2)}, state, params)
      >>> float(optax.apply_updates(params, updates)["kernel"][1])
      0.0
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> KeepPrunedState:
        # Copied, because a training step may donate its state and the caller keeps the masks.
        own = {path: jnp.array(mask, copy=True) for path, mask in _match(masks, params).items()}
        _check_finite(own, params)
        return KeepPrunedState(own, inner.init(apply_masks(params, own)))

    def update(
        updates: optax.Updates,
        state: KeepPrunedState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, KeepPrunedState]:
        if params is None:
            raise PruningError(
                "keep_pruned needs the parameters: call update(grads, state, params)"
            )
        updates, inner_state = inner.update(
            apply_masks(updates, state.masks),
            state.inner_state,
            apply_masks(params, state.masks),
            **extra_args,
        )
        updates = pruned_to_zero(updates, params, state.masks)
        return updates, KeepPrunedState(state.masks, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


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

    return map_by_path(place, updates)


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


def _match(masks: Any, tree: Any) -> dict[str, jax.Array]:
    """Return the mask of each leaf of ``tree`` by path; what optax masks out is passed by."""
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
        if path not in by_path:
            raise PruningError(
                f"parameter {path!r} has no mask: make the masks from these parameters"
            )
        mask = by_path.pop(path)
        if jnp.ndim(mask) and jnp.shape(mask) != jnp.shape(leaf):
            raise PruningError(
                f"parameter {path!r} has shape {jnp.shape(leaf)}, its mask {jnp.shape(mask)}: "
                "make the masks from these parameters"
            )
        matched[path] = mask
    if by_path:
        raise PruningError(
            f"mask {next(iter(by_path))!r} has no parameter: make the masks from these parameters"
        )
    return matched

"""Pruning during training: an optax transformation whose state holds the masks."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from lap_jax.competing import kept_by_step, levels_by_name, with_outputs
from lap_jax.errors import PruningError
from lap_jax.graph.chain import check_fits
from lap_jax.graph.graph import Graph
from lap_jax.integers import whole_number
from lap_jax.methods import (
    Method,
    MethodName,
    checked_method,
    checked_scope_of,
    draws,
    looks,
    score_of,
)
from lap_jax.paths import leaves_by_path, map_by_path, shapes_by_path
from lap_jax.pruning import masks_by_path
from lap_jax.retraining import (
    KeepPrunedState,
    apply_masks,
    check_update,
    pruned_to_zero,
    unpacked_masks,
)
from lap_jax.scoring.scores import Score, wants
from lap_jax.selection.scope import Compare, Scope
from lap_jax.selection.sparsity import Sparsity


class PruneInTrainingState(NamedTuple):
    """State of `prune_in_training`.

    Attributes:
      step: number of updates made, int32.
      masks: by path, boolean: of a kernel's shape, or a scalar True.
      inner_state: of the inner optimizer.
      start: the parameters to rewind to; empty without rewinding.
    """

    step: jax.Array
    masks: dict[str, jax.Array]
    inner_state: optax.OptState
    start: Any


def prune_in_training(
    inner: optax.GradientTransformation,
    graph: Graph,
    schedule: Sequence[tuple[int, Sparsity]],
    *,
    method: MethodName | Method | Score = "LAP",
    scope: Compare | Scope = "layer",
    reconnect: bool = True,
    rewind: bool = False,
    key: jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer so that it prunes at given steps of the training.

    The pruning of step ``t`` sees the parameters after ``t`` updates, within the update that
    follows. Masks and counters are state: all works under `jax.jit` and `jax.lax.scan`, and
    checkpoints hold it. Under `jax.vmap` over whole states the masks are computed in every step, in
    vain but for those of the schedule, because a branch becomes a selection there; give ``step`` no
    axis (``in_axes`` and ``out_axes`` None at that leaf) to keep the branch.

    With ``reconnect``, joint training and pruning (Zhu & Gupta 2017): parameters stay dense and
    each pruning chooses among all weights, so that pruned connections can come back. The forward
    pass is to use ``apply_masks(params, masks_in(state))``, and whoever uses the result
    `final_params`, the same of what training ends with.

    Without it, iterative pruning (Han et al. 2015): each pruning chooses among the weights that are
    left. Pruned weights are zero from then on, as with `keep_pruned`, and updates have the types
    that they have there; momentum that they had when they were pruned fades without effect.

    What an inner optimizer keeps of the weights, it keeps of pruned ones too. An average made from
    it is to be masked: ``apply_masks(optax.contrib.schedule_free_eval_params(...), masks)``. A
    weight that is NaN or infinite when it is pruned stays NaN, for no update takes it to zero; it
    ranks highest, so that this only happens where a layer holds more of them than it keeps.

    Args:
      inner: any optimizer.
      graph: the layers, from `lap_jax.chain`.
      schedule: ``(step, sparsity)`` in order; see `cubic_schedule` and `iterative_schedule`.
      method, scope, key: as in `lookahead_masks`.
      reconnect: whether pruned weights can come back.
      rewind: at each pruning, take the weights that are left back to where they were at ``init``,
        and start the inner optimizer anew (Frankle & Carbin 2019). Only without ``reconnect``. The
        update is the difference, and adding it leaves a rounding error of the larger of the two:
        ``apply_masks(state.start, masks_in(state))`` are the exact first values.

    Returns:
      A gradient transformation. Its ``update`` needs ``params`` and, where the method looks at
      batch norms, ``batch_stats=``. A score of your own that takes ``gradients`` is given the
      updates that come in; other tensors that it takes are handed over as ``tensors=``.

    Raises:
      PruningError: for a schedule that is empty, unordered or has steps that are no whole numbers;
        for a sparsity that falls without ``reconnect``, or ``rewind`` with it; otherwise as
        `lookahead_masks`, here or in ``update``.

    Example:
      >>> from lap_jax import chain, iterative_schedule
      >>> params = {name: {"kernel": jnp.ones((4, 4))} for name in ("a", "b")}
      >>> graph = chain(params, ["a", "b"])
      >>> schedule = iterative_schedule(0.75, 2, 10)
      >>> optimizer = prune_in_training(optax.sgd(0.1), graph, schedule, reconnect=False)
      >>> state = optimizer.init(params)
      >>> updates, state = optimizer.update(params, state, params)
      >>> int((optax.apply_updates(params, updates)["a"]["kernel"] != 0).sum())
      8
    """
    method = checked_method(method)
    scope = checked_scope_of(method, scope)
    graph = with_outputs(graph, scope)
    kept, steps = _table(graph, method, scope, schedule, reconnect)
    masked = {layer.path for layer in graph.layers}
    if scope.unit == "neuron":
        masked |= set(graph.neurons_by(scope.queries).vectors)
    if rewind and reconnect:
        raise PruningError("rewind goes with reconnect=False: rewound weights are pruned for good")
    if draws(method) and key is None:
        raise PruningError("random pruning needs a key: pass key=jax.random.key(seed)")
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> PruneInTrainingState:
        shapes = shapes_by_path(params)
        check_fits(graph, shapes)
        masks = {
            path: jnp.ones(shape if path in masked else (), bool) for path, shape in shapes.items()
        }
        start = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params) if rewind else ()
        return PruneInTrainingState(jnp.zeros((), jnp.int32), masks, inner.init(params), start)

    def pruned(
        state: PruneInTrainingState, params: Any, batch_stats: Any, tensors: Mapping[str, Any]
    ) -> dict[str, jax.Array]:
        event = jnp.searchsorted(jnp.asarray(steps), state.step)
        left = None
        if not reconnect:
            left = {layer.path: state.masks[layer.path] for layer in graph.layers}
        found = masks_by_path(
            graph, method, scope, params, jnp.asarray(kept)[event], batch_stats, key, left,
            tensors=tensors,
        )  # fmt: skip
        return state.masks | found

    def update(
        updates: optax.Updates,
        state: PruneInTrainingState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, PruneInTrainingState]:
        check_update("prune_in_training", params, state, PruneInTrainingState)
        _check_statistics(graph, method, params, extra_args.get("batch_stats"))
        tensors = _tensors(method, updates, extra_args.get("tensors"))
        now = jnp.any(state.step == jnp.asarray(steps))
        masks = lax.cond(
            now,
            lambda: pruned(state, params, extra_args.get("batch_stats"), tensors),
            lambda: state.masks,
        )
        if reconnect:
            updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
            return updates, PruneInTrainingState(state.step + 1, masks, inner_state, state.start)
        weights, origin = leaves_by_path(params), leaves_by_path(state.start)
        moved, inner_state = inner.update(
            apply_masks(updates, masks), state.inner_state, params, **extra_args
        )

        def rewound(path: str, change: jax.Array) -> jax.Array:
            dtype = jnp.result_type(weights[path], change)
            back = jnp.astype(origin[path], dtype) - jnp.astype(weights[path], dtype)
            return jnp.where(now, back, jnp.astype(change, dtype))

        if rewind:
            fresh = inner.init(apply_masks(state.start, masks))
            inner_state = jax.tree.map(
                lambda new, old: jnp.where(now, new, old), fresh, inner_state
            )
            moved = map_by_path(rewound, moved)
        moved = pruned_to_zero(moved, params, masks)
        return moved, PruneInTrainingState(state.step + 1, masks, inner_state, state.start)

    return optax.GradientTransformationExtraArgs(init, update)


def final_params(params: Any, state: optax.OptState) -> Any:
    """Return what training with `keep_pruned` or `prune_in_training` leads to, zeros included.

    `prune_in_training` with ``reconnect`` trains dense weights: its network is
    ``final_params(params, state)``, and whoever saves, evaluates or shrinks ``params`` themselves
    has lost the pruning. Without ``reconnect``, and with `keep_pruned`, nothing changes.

    Args:
      params: as training left them.
      state: the optimizer's, which holds the masks.

    Raises:
      PruningError: if the state holds no masks, or more than one tree of them; as `apply_masks`.
    """
    return apply_masks(params, masks_in(state, params))


def masks_in(state: optax.OptState, params: Any = None) -> dict[str, jax.Array]:
    """Return the masks that an optimizer's state holds, by path, as truth values.

    Args:
      state: with one state of `keep_pruned` or `prune_in_training` somewhere in it.
      params: the parameters, of which shapes are read, where the masks are packed.

    Raises:
      PruningError: if there is none, or more than one, or they are packed and no parameters tell
        their shapes.
    """
    kinds = (KeepPrunedState, PruneInTrainingState)
    leaves = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kinds))
    found = [leaf for leaf in leaves if isinstance(leaf, kinds)]
    if len(found) != 1:
        raise PruningError(
            f"the optimizer's state holds {len(found)} states with masks: expected one, of "
            "keep_pruned or prune_in_training"
        )
    return unpacked_masks(found[0].masks, params)


def _check_statistics(graph: Graph, method: Method, params: Any, batch_stats: Any | None) -> None:
    """Refuse an update without the statistics that the method looks at."""
    if batch_stats is not None or not looks(method):
        return
    held = leaves_by_path(params)
    for part in graph.parts.values():
        for factor in part.factors:
            if factor.path not in held:
                raise PruningError(
                    f"prune_in_training looks at {factor.path!r}, which is not among the "
                    "parameters: call update(grads, state, params, batch_stats=batch_stats). "
                    "TrainState.apply_gradients of Flax hands none over: call state.tx.update "
                    "with state.opt_state and state.params, and state.replace with what comes out"
                )


def _tensors(method: Method, updates: Any, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the tensors that the score takes, the gradients among them."""
    tensors = dict(given or {})
    if any("gradients" in names for names in wants(score_of(method))):
        tensors.setdefault("gradients", updates)
    checked_method(method, None, tensors)
    return tensors


def _table(
    graph: Graph, method: Method, scope: Scope, schedule: Sequence[tuple[int, Sparsity]],
    reconnect: bool,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return counts of kept weights ``[events, steps, layers]`` and the events' steps, int32."""
    if not schedule:
        raise PruningError("the schedule is empty: give (step, sparsity) at least once")
    steps = [whole_number("a step of the schedule", step) for step, _ in schedule]
    rising = all(step < later for step, later in itertools.pairwise(steps))
    if not rising or steps[0] < 0 or steps[-1] >= 2**31:
        raise PruningError(
            f"the schedule's steps are {steps}: expected rising numbers from 0 on, below 2**31"
        )
    levels = [levels_by_name(graph, scope, sparsity) for _, sparsity in schedule]
    for before, after in itertools.pairwise(levels):
        for name, old in before.items():
            if after[name] < old and not reconnect:
                raise PruningError(
                    f"the sparsity of layer {name!r} falls from {old:g} to {after[name]:g}: "
                    "without reconnect pruned weights stay pruned"
                )
    counts = [kept_by_step(graph, method, scope, level) for level in levels]
    return np.stack(counts), np.array(steps, np.int32)

"""Masks, pass by pass: who is scored on what, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lap_jax.batching import for_each, is_traced
from lap_jax.effective import effective_pass
from lap_jax.graph.layers import Layer
from lap_jax.meshes import as_laid_out
from lap_jax.methods import draws, looks
from lap_jax.network import (
    Masks,
    Network,
    Rule,
    flows,
    inputs_of_scores,
    layout_over,
    propagation,
    staged,
    staged_on_host,
    with_tied,
)
from lap_jax.scoring.kernels import as_read
from lap_jax.scoring.liveness import best_of_neurons
from lap_jax.scoring.propagation import Flow, Propagation, changed
from lap_jax.selection.scope import Scope
from lap_jax.selection.scopes import LayerScores, select


def prune(
    network: Network, scope: Scope, kept: Any, start: Masks | None, tops: dict[str, jax.Array]
) -> Masks:
    """Return the masks of the layers, in as many passes as ``kept`` ``[steps, layers]`` has."""
    graph, method = network.graph, network.method
    if method.effective:
        return _effectively(network, scope, kept, start, tops)
    if method.steps == 1:
        return _both(_pass(network, scope, start, kept[0], tops, None)[0], start)
    # The first pass starts from full masks, rather than being compiled apart from the others.
    masks = start or _full(network)
    found: dict[str, Flow] | None = None
    if not is_traced((network.kernels, kept, masks)):
        for step in range(method.steps):
            masks, found = _pass(network, scope, masks, kept[step], tops, found)
            masks = _both(masks, start)
        return masks
    if method.order is not None and looks(method) and not method.lags:
        found = flows(network, graph.names, tops, masks)
    kept = jnp.asarray(kept)

    def turn(index: jax.Array, state: Any) -> Any:
        masks, found = _pass(network, scope, state[0], kept[index], tops, state[1])
        return _both(masks, start), found

    return lax.fori_loop(0, method.steps, turn, (masks, found))[0]


def _effectively(
    network: Network, scope: Scope, kept: Any, start: Masks | None, tops: dict[str, jax.Array]
) -> Masks:
    """Return masks of effective weights: each step goes on from what the one before has left."""

    def one_pass(candidates: Masks, kept: Any, known: Masks) -> Masks:
        return _pass(network, scope, candidates, kept, tops, None, known)[0]

    def best_of_neurons(candidates: Masks) -> Masks:
        return _best_of_neurons(network, tops, candidates)

    masks = start or _full(network)
    for step in range(network.method.steps):
        last = step == network.method.steps - 1
        masks = effective_pass(
            network, scope, one_pass, best_of_neurons, masks, kept[step], warns=last
        )
    return masks


def _best_of_neurons(network: Network, tops: dict[str, jax.Array], candidates: Masks) -> Masks:
    """Return, of each neuron that candidates lead through, the best weight into and out of it."""
    known = None
    if looks(network.method) and not network.method.lags:
        known = propagation(
            network, flows(network, network.graph.names, tops, candidates), candidates
        )
    given = inputs_of_scores(network, network.graph.prunable, known, candidates, True)
    return for_each(_best, {
        name: ((rule, layout_over(network, name)), (candidates[name], *operands))
        for name, (rule, operands) in given.items()
    })  # fmt: skip


def _best(how: tuple[Rule, Any], mask: jax.Array, *operands: Any) -> jax.Array:
    rule, sharding = how
    function, own = staged(rule, *operands)
    scores = jnp.where(mask, function(*own), -1)
    first, *others = rule.layouts
    found = best_of_neurons(first, scores)
    for layout in others:
        again = best_of_neurons(layout, as_read(first, layout, scores))
        found |= as_read(layout, first, again)
    return as_laid_out(mask & found, sharding)


def _full(network: Network) -> Masks:
    return {
        layer.name: jnp.ones(layer.shape, bool, device=layout_over(network, layer.name))
        for layer in network.graph.layers
    }


def _both(masks: Masks, start: Masks | None) -> Masks:
    """Return what both keep: a pass may allow for more than an earlier pruning left."""
    return masks if start is None else {name: masks[name] & start[name] for name in masks}


def _pass(
    network: Network, scope: Scope, masks: Masks | None, kept: Any, tops: dict[str, jax.Array],
    found: dict[str, Flow] | None, done: Masks | None = None,
) -> tuple[Masks, dict[str, Flow] | None]:  # fmt: skip
    """Prune all layers once.

    Args:
      network, scope: what to prune, and what competes.
      masks: what is left; None: all.
      kept: how many units are to stay, by prunable layer (global: one).
      tops: peaks of the kernels.
      found: norms of the kernels as ``masks`` leave them, where they are known.
      done: masks of layers that need not be pruned again, of a method that looks at no neighbours
        and compares the weights of a layer.

    Returns:
      Masks of all layers, and norms under them, where a next pass is to begin with these.
    """
    graph, method = network.graph, network.method
    seen = dict(masks or {})
    if method.order is None or not looks(method):
        known = None
        if looks(method) and not method.lags:
            known = propagation(network, flows(network, graph.names, tops, masks), seen)
        layers = [layer for layer in graph.prunable if layer.name not in (done or {})]
        if done:
            kept = kept[np.array([graph.prunable.index(layer) for layer in layers], np.int32)]
            seen |= with_tied(network, seen | done)
        return seen | _selected(network, scope, layers, known, seen, kept), None
    known = None
    if not method.lags:  # these look at the kernels themselves
        found = found or flows(network, graph.names, tops, masks)
        known = propagation(network, dict(found), seen)
    places = list(enumerate(graph.prunable))
    for place, layer in places[:: -1 if method.order == "backward" else 1]:
        new = _selected(network, scope, [layer], known, seen, kept[place : place + 1])
        seen |= new
        if known is not None:
            for name, flow in flows(network, list(new), tops, seen).items():
                changed(known, name, flow)
    return seen, None if known is None else known.flows


def _selected(
    network: Network, scope: Scope, layers: Sequence[Layer], known: Propagation | None, seen: Masks,
    kept: Any,
) -> Masks:  # fmt: skip
    """Return the masks of some layers, and of those that are tied to them.

    Args:
      network, scope: what to prune, and what competes.
      layers: those to prune.
      known: norms and what came of them; None for a method that needs none.
      seen: masks of the weights that count, and take part.
      kept: how many units are to stay, by layer (global: one).
    """
    # Within a layer a power of two changes nothing; between layers it would.
    rescale = scope.compare == "layer" or scope.normalize != "none"
    given = {
        name: LayerScores(rule, operands, rule.layouts[0].shape, seen.get(name),
                          layout_over(network, name))
        for name, (rule, operands) in inputs_of_scores(
            network, layers, known, seen, rescale
        ).items()
    }  # fmt: skip
    masks = select(
        scope, staged, given, kept, draws(network.method) or network.method.lags, staged_on_host
    )
    return with_tied(network, masks)

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
    NOTHING,
    Before,
    Flows,
    Masks,
    Network,
    Rule,
    flows,
    inputs_of_scores,
    layout_over,
    propagation,
    staged,
    staged_on_host,
    tied_layers,
    with_tied,
)
from lap_jax.scoring.kernels import as_read
from lap_jax.scoring.liveness import best_of_neurons
from lap_jax.scoring.propagation import Propagation, changed, rests_on
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
    found: Flows | None = None
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
        # Without an order norms are not gone on from.
        return _both(masks, start), None if state[1] is None else found

    return lax.fori_loop(0, method.steps, turn, (masks, found))[0]


def _effectively(
    network: Network, scope: Scope, kept: Any, start: Masks | None, tops: dict[str, jax.Array]
) -> Masks:
    """Return masks of effective weights: each step goes on from what the one before has left."""

    def one_pass(candidates: Masks, kept: Any, before: Before) -> tuple[Masks, Flows | None]:
        return _pass(network, scope, candidates, kept, tops, None, before)

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
    found: Flows | None, before: Before = NOTHING,
) -> tuple[Masks, Flows | None]:  # fmt: skip
    """Prune all layers once.

    Args:
      network, scope: what to prune, and what competes.
      masks: what is left; None: all.
      kept: how many units are to stay, by prunable layer (global: one).
      tops: peaks of the kernels.
      found: norms of the kernels as ``masks`` leave them, where they are known.
      before: an earlier pass, whose masks a layer keeps that would be pruned to the same: all that
        its scores are made of is as it was, and so are its kept weights. A method with an order
        prunes every layer.

    Returns:
      Masks of all layers. With an order norms under them, for a next pass to begin with; else norms
      as ``masks`` left them, where the method looks at any.
    """
    graph, method = network.graph, network.method
    seen = dict(masks or {})
    if method.order is None or not looks(method):
        same = {name for name, own in before.candidates.items() if seen[name] is own}
        known = None
        if looks(method) and not method.lags:
            old = {name: flow for name, flow in before.flows.items() if name in same}
            others = [name for name in graph.names if name not in old]
            found = old | flows(network, others, tops, masks)
            known = propagation(network, dict(found), seen)
        done = _done(network, before, same, known)
        layers = [layer for layer in graph.prunable if layer.name not in done]
        if done:
            kept = kept[np.array([graph.prunable.index(layer) for layer in layers], np.int32)]
        pruned = _selected(network, scope, layers, known, seen, kept)
        return seen | with_tied(network, done) | pruned, found
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


def _done(network: Network, before: Before, same: set[str], known: Propagation | None) -> Masks:
    """Return the masks of layers that a pass would prune as the one before.

    Args:
      network: with the method.
      before: that pass.
      same: layers of which the same weights take part.
      known: norms; None for a method that looks at none.
    """
    method, tied = network.method, tied_layers(network.graph)
    if looks(method) and known is None:
        return {}

    def made_of_the_same(layer: Layer) -> bool:
        return known is None or rests_on(known, layer, method.direction, method.horizon) <= same

    return {
        name: mask
        for name, mask in before.whole.items()
        if all(map(made_of_the_same, (network.graph[name], *tied.get(name, ()))))
    }


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

"""Whole neurons: their scores, which of them stay, and the masks of all that belongs to them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from lap_jax.batching import for_each, is_traced
from lap_jax.errors import PruningError
from lap_jax.graph.groups import NeuronGroup, Neurons
from lap_jax.graph.layers import Layer
from lap_jax.meshes import as_laid_out
from lap_jax.methods import looks
from lap_jax.network import (
    Masks,
    Network,
    Rule,
    flows,
    inputs_of_scores,
    layout_over,
    propagation,
    staged,
    tied_layers,
    with_tied,
)
from lap_jax.scoring.kernels import Layout, as_read, layout_of
from lap_jax.scoring.norms import euclidean, lamp, near_largest
from lap_jax.scoring.propagation import Flow, Propagation, changed, removals
from lap_jax.scoring.scores import Sides, along_kernel, flow
from lap_jax.selection.scope import Scope
from lap_jax.selection.top_k import keep_largest
from lap_jax.selection.widths import evened

Alive = dict[str, jax.Array]
"""By group, which of its neurons stay, ``[width]``."""


def prune_neurons(
    network: Network, scope: Scope, neurons: Neurons, kept: Any, start: Masks | None,
    tops: dict[str, jax.Array],
) -> tuple[Masks, Alive]:  # fmt: skip
    """Return masks of the layers, and the neurons that stay.

    Args:
      network, scope: what to prune, and what competes.
      neurons: the groups.
      kept: how many neurons are to stay, ``[steps, groups]`` (global: one); may be traced.
      start: by layer, what an earlier pruning left.
      tops: peaks of the kernels.

    Raises:
      PruningError: if the earlier pruning left fewer neurons than are to stay.
    """
    left = {group.name: jnp.ones(group.width, bool) for group in neurons.free}
    if start is not None:
        left = _left(network, neurons, start)
        _check_left(scope, neurons, left, kept[-1])
    alive, order = left, network.method.order
    for step in range(network.method.steps):
        masks = _masks(network, neurons, alive, start)
        known = _known(network, masks, tops)
        if order is None or not looks(network.method):
            scores = {group.name: _scored(network, neurons, group, known, masks)
                      for group in neurons.free}  # fmt: skip
            alive = _chosen(scope, neurons, scores, alive, kept[step])
            continue
        places = list(enumerate(neurons.free))
        for place, group in places[:: -1 if order == "backward" else 1]:
            scores = {group.name: _scored(network, neurons, group, known, masks)}
            alive = alive | _kept(scores, alive, [kept[step][place]])
            masks = _masks(network, neurons, alive, start)
            names = dict.fromkeys((*group.writes, *group.reads))
            for name, new in flows(network, list(names), tops, masks).items():
                changed(known, name, new)
            known = known._replace(weigh=propagation(network, {}, masks).weigh)
    return _masks(network, neurons, alive, start), alive


def vector_masks(
    neurons: Neurons, alive: Alive, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, jax.Array]:
    """Return masks of biases, scales and means, by path; of those that ``shapes`` names."""
    every = _all(neurons, alive)
    found = {}
    for path, rows in neurons.vectors.items():
        if path in shapes:
            how = (shapes[path], rows)
            found[path] = _entries(how, every)
    return found


# ---------------------------------------------------------------- scores


def _known(network: Network, masks: Masks, tops: dict[str, jax.Array]) -> Propagation:
    """Return the norms of the kernels, and what can be made of them."""
    return propagation(network, flows(network, network.graph.names, tops, masks), masks)


def _scored(
    network: Network, neurons: Neurons, group: NeuronGroup, known: Propagation, masks: Masks
) -> jax.Array:
    """Return the scores of the neurons of a group, ``[width]``.

    Of lookahead the norm over all layers that read a neuron of what its loss changes in them; of
    others the norm of the scores of the weights that lead to it.
    """
    method, graph = network.method, network.graph
    if method.score == "random":
        assert network.key is not None
        key = jax.random.fold_in(network.key, np.uint32(zlib.crc32(group.name.encode())))
        return jax.random.uniform(key, (group.width,))
    if method.score == "lookahead" and looks(method):
        # A depthwise convolution reads the neuron and makes it: what it gives is read in turn.
        reads = [name for name in group.reads if graph[name].groups == 1 or not graph[name].is_conv]
        values = {(name, "in"): removals(known, graph[name], method.horizon) for name in reads}
    elif isinstance(method.score, str):
        values = {(name, "out"): known.flows[name][1] for name in group.writes}
    else:
        values = _own(network, group, known, masks)
    operands = []
    for side, each in values.items():
        numbers = neurons.sides[side].values
        places = np.flatnonzero((numbers >= group.start) & (numbers < group.start + group.width))
        operands.append((each, places, numbers[places] - group.start))
    return for_each(_of_neurons, {group.name: (group.width, tuple(operands))})[group.name]


def _own(
    network: Network, group: NeuronGroup, known: Propagation, masks: Masks
) -> dict[tuple[str, str], jax.Array]:
    """Return, by output, the norm of the scores that a function of the user's gives."""
    layers = [network.graph[name] for name in group.writes if not network.graph[name].tied_to]
    if not layers:
        raise PruningError(
            f"neurons of {group.name!r} are made by weights that are scored where another layer "
            "reads them: pin it, or use LAP, MP or RP"
        )
    own = known if looks(network.method) else None
    calls = {
        name: (rule, (*operands, masks[name]))
        for name, (rule, operands) in inputs_of_scores(network, layers, own, masks, False).items()
    }
    return {(name, "out"): each for name, each in for_each(_columns, calls).items()}


def _columns(rule: Rule, *operands: Any) -> jax.Array:
    *inputs, mask = operands
    function, own = staged(rule, *inputs)
    scores = function(*own)
    return flow(1, scores, jnp.max(scores), mask)[1]


def _of_neurons(width: int, *parts: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    """Return the norm of each neuron's values, given with their places and its numbers."""
    values = jnp.concatenate([each[places] for each, places, _ in parts])
    numbers = jnp.concatenate([own for _, _, own in parts])
    near = near_largest(values)
    squares = jnp.zeros(width, values.dtype).at[numbers].add(jnp.square(values / near))
    return near * jnp.sqrt(squares)


# ---------------------------------------------------------------- which stay


def _chosen(
    scope: Scope, neurons: Neurons, scores: Mapping[str, jax.Array], left: Alive, kept: Any
) -> Alive:
    if scope.compare == "layer":
        return _kept(scores, left, kept)
    given = [_compared(scope, scores[group.name]) for group in neurons.free]
    where = jnp.concatenate([left[group.name] for group in neurons.free])
    mask = keep_largest(jnp.concatenate(given), kept[0], where)
    ends = np.cumsum([group.width for group in neurons.free])[:-1]
    counts = [jnp.sum(part, dtype=jnp.int32) for part in jnp.split(mask, ends)]
    return _kept(scores, left, evened(scope, neurons, counts))


def _compared(scope: Scope, scores: jax.Array) -> jax.Array:
    """Return the scores of a group as they are compared with those of others."""
    if scope.normalize == "none":
        return scores
    if scope.normalize == "lamp":
        return lamp(scores)
    norm = euclidean(scores, 0)
    return scores / jnp.where(norm > 0, norm, 1)


def _kept(scores: Mapping[str, jax.Array], left: Alive, kept: Sequence[Any]) -> Alive:
    pairs = zip(scores.items(), kept, strict=True)
    calls = {name: (None, (each, left[name], count)) for (name, each), count in pairs}
    return for_each(_largest, calls)


def _largest(_: None, scores: jax.Array, where: jax.Array, kept: jax.Array) -> jax.Array:
    return keep_largest(scores, kept, where) & where


def _left(network: Network, neurons: Neurons, start: Masks) -> Alive:
    """Return the neurons of which masks leave something that leads to them, and from them."""
    one = jnp.ones((), jnp.float32)
    found = {}
    ends = for_each(_ends, {layer.name: (layer.groups, (start[layer.name], one))
                            for layer in network.graph.layers})  # fmt: skip
    for group in neurons.free:
        both = []
        for names, side, place in ((group.writes, "out", 1), (group.reads, "in", 0)):
            held = jnp.zeros(group.width, bool)
            for name in names:
                numbers = neurons.sides[name, side].values
                places = np.flatnonzero(
                    (numbers >= group.start) & (numbers < group.start + group.width)
                )
                own = ends[name][place][places] > 0
                held = held.at[numbers[places] - group.start].max(own)
            both.append(held)
        found[group.name] = both[0] & both[1]
    return found


def _ends(groups: int, mask: jax.Array, one: jax.Array) -> Flow:
    return flow(groups, mask.astype(jnp.float32), one)


def _check_left(scope: Scope, neurons: Neurons, left: Alive, kept: Any) -> None:
    if is_traced((left, kept)):
        return
    counts = [int(left[group.name].sum()) for group in neurons.free]
    names = [f"group {group.name!r}" for group in neurons.free]
    if scope.compare == "global":
        names, counts = ["all groups together"], [sum(counts)]
    for name, count, wanted in zip(names, counts, np.asarray(kept).tolist(), strict=True):
        if wanted > count:
            raise PruningError(
                f"{name}: the sparsity keeps {wanted} neurons, the masks given left {count}: raise "
                "the sparsity, or leave masks out to start anew"
            )


# ---------------------------------------------------------------- masks


def _all(neurons: Neurons, alive: Alive) -> jax.Array:
    """Return which neurons of all groups stay, and True for what is none at the end."""
    parts = [
        alive[group.name] if group.name in alive else jnp.ones(group.width, bool)
        for group in neurons.groups
    ]
    return jnp.concatenate([*parts, jnp.ones(1, bool)])


def _masks(network: Network, neurons: Neurons, alive: Alive, start: Masks | None) -> Masks:
    """Return masks of all layers: of what leads between neurons that stay."""
    every = _all(neurons, alive)
    graph = network.graph
    calls = {}
    for layer in graph.layers:
        ends = tuple(_along(neurons, every, layer, side) for side in ("in", "out"))
        how = (layout_of(layer), layout_over(network, layer.name))
        before = None if start is None else start[layer.name]
        calls[layer.name] = (how, (*ends, before))
    masks: Masks = for_each(_kernel, calls)
    for name, others in tied_layers(graph).items():
        for other in others:
            layouts = (layout_of(other), layout_of(graph[name]))
            back = for_each(_again, {name: (layouts, (masks[other.name], masks[name]))})
            masks |= back
    return with_tied(network, masks)


def _along(neurons: Neurons, every: jax.Array, layer: Layer, side: str) -> jax.Array:
    size = layer.in_size if side == "in" else layer.out_size
    if (layer.name, side) not in neurons.sides:
        return jnp.ones(size, bool)
    return every[neurons.sides[layer.name, side].values]


def _kernel(
    how: tuple[Layout, Sharding | None], into: jax.Array, out: jax.Array, before: jax.Array | None
) -> jax.Array:
    layout, sharding = how
    ends = along_kernel(layout, Sides(into, out))
    assert ends.input is not None
    assert ends.output is not None
    mask = jnp.broadcast_to(ends.input & ends.output, layout.shape)
    return as_laid_out(mask if before is None else mask & before, sharding)


def _again(layouts: tuple[Layout, Layout], mask: jax.Array, first: jax.Array) -> jax.Array:
    return as_read(*layouts, mask) & first


def _entries(how: tuple[tuple[int, ...], Any], every: jax.Array) -> jax.Array:
    """Return the mask of a leaf: an entry goes if all neurons that it belongs to do."""
    shape, rows = how
    entries, numbers = rows.values.T
    size = int(np.prod(shape))
    listed = np.zeros(size, bool)
    listed[entries] = True
    held = jnp.asarray(~listed).at[entries].max(every[numbers])
    return held.reshape(shape)

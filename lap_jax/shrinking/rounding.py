"""Widths in multiples: dead neurons that stay, because hardware computes in blocks.

A matrix product takes as long for 130 columns as for 136 on a CPU whose vectors hold eight numbers,
often longer; accelerators work in blocks of 128. Neurons that nothing leads to, or that nobody
reads, fill a group up to the next multiple: the plan takes the pruned weights that would lead to
them, and out of them, for weights of any value, so that it keeps them. The weights stay nought.
Weights that a dead neuron still has wake what they lead from: those with the fewest go first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lap_jax.graph.graph import Graph
from lap_jax.graph.groups import NeuronGroup, Neurons
from lap_jax.graph.layers import Layer
from lap_jax.paths import leaves_by_path, map_by_path
from lap_jax.scoring.kernels import kernel_of, layout_of, leaves_of
from lap_jax.scoring.liveness import lead_through
from lap_jax.scoring.scores import along_inputs
from lap_jax.shrinking.small import Small

Ends = dict[tuple[str, str], np.ndarray]
"""By layer and side, a truth value per channel."""


def woken(
    graph: Graph, small: Small, multiple_of: int, before: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return, by path, which weights are to count as anything, so that widths become multiples.

    Of groups of single neurons or channels alone: heads go by what they are made of. A group that
    has no neuron left, or no more to add, stays as it is.

    Args:
      graph: of the large network.
      small: what is left of it.
      multiple_of: what the number of neurons of each group is to be a multiple of.
      before: by path, weights that counted so already.

    Returns:
      Those and others; nothing if there are no others.
    """
    kept = _kept_entries(small)
    ends: Ends = {}
    for layer in graph.layers:
        ends |= _ends(layer, kernel_of(layer, kept[layer.path]))
    extra = _fillers(graph.neurons, ends, _weights_of(graph, small.large), multiple_of)
    wake = _weights(graph, extra, ends, {path: leaf.shape for path, leaf in kept.items()})
    wake = {path: mask | before[path] if path in before else mask for path, mask in wake.items()}
    more = (mask & ~before.get(path, np.False_) for path, mask in wake.items())
    return wake if any(mask.any() for mask in more) else {}


def _fillers(
    neurons: Neurons, ends: Ends, weights: np.ndarray, multiple_of: int
) -> np.ndarray:  # fmt: skip
    """Return which neurons fill widths up, counted over all groups; False for none at the end."""
    extra = np.zeros(sum(group.width for group in neurons.groups) + 1, bool)
    for group in neurons.free:
        if group.channels == 1 and group.kind != "heads":
            own = slice(group.start, group.start + group.width)
            extra[own] = _filling(_alive(group, neurons, ends), weights[own], multiple_of)
    return extra


def _weights_of(graph: Graph, variables: Any) -> np.ndarray:
    """Return how many weights are not nought, into and out of each neuron, over all groups."""
    leaves, neurons = leaves_by_path(variables), graph.neurons
    found = np.zeros(sum(group.width for group in neurons.groups) + 1, int)
    for layer in graph.layers:
        kernel = kernel_of(layer, np.asarray(leaves[layer.path])) != 0
        into = kernel.reshape(-1, kernel.shape[-2], layer.groups, layer.out_size // layer.groups)
        for side, counts in (("in", into.sum((0, 3)).T), ("out", into.sum((0, 1)))):
            if (layer.name, side) in neurons.sides:
                np.add.at(found, neurons.sides[layer.name, side].values, counts.reshape(-1))
    return found


def _weights(
    graph: Graph, extra: np.ndarray, ends: Ends, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Return, by path, the weights between some neurons and those that are left or wake, too."""
    neurons, asleep = graph.neurons, dict[str, Any]()
    for layer in graph.layers:
        into, out = (_of_channels(neurons, extra, layer, side) for side in ("in", "out"))
        one = _along(layer, into) | out
        both = _along(layer, into | ends[layer.name, "in"]) & (out | ends[layer.name, "out"])
        asleep[layer.name] = np.broadcast_to(~(one & both), layer.shape)
    found = leaves_of(graph, asleep, shapes, dict.fromkeys(shapes))
    wake = {path: ~np.asarray(mask) for path, mask in found.items()}
    for path, rows in neurons.vectors.items():  # of neurons that were pruned whole, scales too
        if path in shapes:
            entries, numbers = rows.values.T
            mask = wake.setdefault(path, np.zeros(shapes[path], bool))
            mask.reshape(-1)[entries[extra[numbers]]] = True
    return wake


def _kept_entries(small: Small) -> dict[str, np.ndarray]:
    """Return of each leaf of the large network which entries are left."""
    numbered = map_by_path(
        lambda path, leaf: np.arange(np.size(leaf)).reshape(np.shape(leaf)), small.large
    )
    numbers = leaves_by_path(small.slice(numbered))
    found = {}
    for path, leaf in leaves_by_path(small.large).items():
        names = [path]
        for level in small.stacks:
            names = [own for name in names for own in level.names(name)]
        entries = np.zeros(np.size(leaf), bool)
        for name in names:
            entries[np.asarray(numbers[name]).reshape(-1)] = True
        found[path] = entries.reshape(np.shape(leaf))
    return found


def _ends(layer: Layer, kept: np.ndarray) -> Ends:
    """Return the channels that entries of a kernel lead from, and to."""
    layout = layout_of(layer)
    return {
        (layer.name, "in"): lead_through(layout, kept, np.ones(layer.out_size, bool), False),
        (layer.name, "out"): lead_through(layout, kept, np.ones(layer.in_size, bool), True),
    }


def _alive(group: NeuronGroup, neurons: Neurons, ends: Ends) -> np.ndarray:
    """Return, for each layer that makes or reads a group, which neurons are left in its kernel."""
    sides = [*((name, "out") for name in group.writes), *((name, "in") for name in group.reads)]
    alive = np.zeros((len(sides), group.width), bool)
    for row, side in zip(alive, sides, strict=True):
        numbers = neurons.sides[side].values - group.start
        row[numbers[(numbers >= 0) & (numbers < group.width) & ends[side]]] = True
    return alive


def _filling(alive: np.ndarray, weights: np.ndarray, multiple_of: int) -> np.ndarray:
    """Return neurons that fill each row of those that are left up to a multiple.

    Those first that fill several rows, or are left in some; then those with the fewest weights:
    what these lead from, and to, wakes too.
    """
    chosen = np.zeros(alive.shape[1], bool)
    for row in alive:
        lacks = -row.sum() % multiple_of if row.any() else 0
        order = np.lexsort((weights, -2 * chosen - alive.any(0)))
        chosen[order[~row[order]][:lacks]] = True
    return chosen


def _of_channels(neurons: Neurons, of: np.ndarray, layer: Layer, side: str) -> np.ndarray:
    """Return what is true of neurons by a layer's channels; false of what is none."""
    if (layer.name, side) not in neurons.sides:
        return np.zeros(layer.in_size if side == "in" else layer.out_size, bool)
    return of[neurons.sides[layer.name, side].values]


def _along(layer: Layer, into: np.ndarray) -> np.ndarray:
    """Return what is true of inputs, to be met with outputs along the last axis."""
    return np.asarray(along_inputs(layout_of(layer), into))

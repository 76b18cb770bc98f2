"""A graph against the oracle: does every channel reach what the graph says, and nothing else?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarks.models.oracle import FREE, Reached, direct
from lap_jax import IDENTITY, Graph, Layer


class Verdict(NamedTuple):
    """What the oracle makes of a graph.

    Attributes:
      edges: pairs of layers that the graph or the oracle connects. Without those that lead to a
        layer whose kernel nothing reads by itself: where one is made of several parameters, such as
        the queries of a learned probe, the oracle has no numbers for its entries and sees no
        channel reach it. ``lost`` says that there is one.
      agree: those of them where all channels that were tried go the same way.
      differ: a line for each of the others that no barrier explains.
      stopped: how many the oracle sees on the two sides of a barrier.
      lost: leaves that meet an activation, as kernels do, and are in no layer.
    """

    edges: int
    agree: int
    differ: tuple[str, ...]
    stopped: int
    lost: tuple[str, ...]


class _End(NamedTuple):
    """A layer as an equation reads it: its channel, by the equation's own; -1 for none."""

    layer: str
    inputs: np.ndarray
    outputs: np.ndarray


def judge(graph: Graph, found: Reached, leaves: Mapping[str, Any]) -> Verdict:
    """Compare the edges of a graph with what perturbations have shown.

    Args:
      graph: of the model.
      found: of the model.
      leaves: the model's, by path, in the order in which the oracle numbers them.
    """
    sizes = [np.size(leaf) for leaf in leaves.values()]
    starts = dict(zip(leaves, np.cumsum([0, *sizes[:-1]]), strict=True))
    ends = [_ends(graph, each.table, leaves, starts) for each in found.readings]
    seen, free, probed = _by_layers(graph, found, ends)
    hidden: set[str] = set()
    if any((each.table < 0).all() for each in found.readings):
        hidden = set(graph.names) - {end.layer for own in ends for end in own}
    edges, agree, stopped, differ = 0, 0, 0, []
    for name, channels in probed.items():
        claims = claimed(graph, name, channels)
        for other in graph.names:
            claim = claims.get(other)
            none = np.zeros((len(channels), graph[other].in_size), bool)
            claim = none if claim is None else claim
            shown = seen.get((name, other), none)
            if other in hidden or not (claim.any() or shown.any()):
                continue
            edges += 1
            missing, more = shown & ~claim, claim & ~free.get((name, other), none)
            if not missing.any() and not more.any():
                agree += 1
            elif not more.any() and _stopped(graph, name, other):
                stopped += 1
            else:
                differ.append(_difference(name, other, claim, missing, more))
    return Verdict(edges, agree, tuple(differ), stopped, _lost(found, ends, leaves, starts))


def claimed(graph: Graph, name: str, channels: np.ndarray) -> dict[str, np.ndarray]:
    """Return which inputs of which layers a layer's channels reach, as a graph says.

    Args:
      graph: its junctions are passed, its layers are not.
      name: of the layer.
      channels: of its outputs.

    Returns:
      ``{layer: [channels, inputs]}``.
    """
    layers, parts = set(graph.names), graph.parts
    start = np.zeros((len(channels), graph[name].out_size), bool)
    start[np.arange(len(channels)), channels] = True
    rows: dict[str, np.ndarray] = {}

    def pass_on(source: str, values: np.ndarray) -> None:
        for edge in graph.out_of(source):
            if edge.target == IDENTITY:
                continue
            pairs = edge.pairs_of(values.shape[1], parts[edge.target].in_size)
            into = rows.setdefault(
                edge.target, np.zeros((len(values), parts[edge.target].in_size), bool)
            )
            # Bool by bool: several channels may reach one input.
            rows_of, at = np.nonzero(values[:, pairs[:, 0]])
            into[rows_of, pairs[at, 1]] = True

    pass_on(name, start)
    for junction in graph.junctions:  # a junction comes after those that it reads
        if junction.name in rows:
            pass_on(junction.name, rows[junction.name])
    return {target: values for target, values in rows.items() if target in layers}


def _ends(
    graph: Graph, table: np.ndarray, leaves: Mapping[str, Any], starts: Mapping[str, Any]
) -> list[_End]:
    held = table[table >= 0]
    low, high = (held.min(), held.max()) if held.size else (0, -1)
    ends = [
        _end(layer, leaves[layer.path].shape, int(starts[layer.path]), table)
        for layer in graph.layers
        if starts[layer.path] <= high and low < starts[layer.path] + np.size(leaves[layer.path])
    ]
    return [end for end in ends if end]


def _end(layer: Layer, shape: Sequence[int], start: int, table: np.ndarray) -> _End | None:
    """Find a layer in a table of parameters, if the table reads it in the layer's own way."""
    size = math.prod(shape)
    own = (table >= start) & (table < start + size)
    if not own.any():
        return None
    kernel = np.arange(size).reshape(shape)[layer.place]
    if layer.split:
        kernel = kernel.reshape(layer.split).transpose(layer.order)
    kernel = kernel.reshape(layer.shape)
    outputs = np.arange(layer.shape[-1])
    inputs = np.arange(layer.shape[-2])[:, None]
    inputs = inputs + outputs // (layer.out_size // layer.groups) * layer.shape[-2]
    into, out = np.full(size, -1), np.full(size, -1)
    into[kernel], out[kernel] = inputs, outputs
    index = np.where(own, table - start, 0)
    ins, outs = np.where(own, into[index], -1), np.where(own, out[index], -1)
    rows, columns = ins.max(1), outs.max(0)
    straight = (ins < 0) | (ins == rows[:, None])
    if not (straight & ((outs < 0) | (outs == columns))).all() or (rows < 0).all():
        return None
    return _End(layer.name, rows, columns)


def _by_layers(
    graph: Graph, found: Reached, ends: Sequence[Sequence[_End]]
) -> tuple[
    dict[tuple[str, str], np.ndarray], dict[tuple[str, str], np.ndarray], dict[str, np.ndarray]
]:
    """Bring what equations have shown to layers: direct, in any way, and which channels of each."""
    probed: dict[str, np.ndarray] = {}
    for own, channels in zip(ends, found.channels, strict=True):
        for end in own:
            some = end.outputs[channels]
            before = probed.get(end.layer, np.zeros(0, int))
            probed[end.layer] = np.unique(np.concatenate([before, some[some >= 0]]))
    seen: dict[tuple[str, str], np.ndarray] = {}
    free: dict[tuple[str, str], np.ndarray] = {}
    for pair, any_way in found.changed[FREE].items():
        for into, values in ((seen, direct(found, pair)), (free, any_way)):
            if values is None:
                continue
            for source in ends[pair[0]]:
                for target in ends[pair[1]]:
                    key = (source.layer, target.layer)
                    shape = (len(probed[source.layer]), graph[target.layer].in_size)
                    table = into.setdefault(key, np.zeros(shape, bool))
                    own, inputs = source.outputs[found.channels[pair[0]]], target.inputs
                    rows = np.searchsorted(probed[source.layer], own[own >= 0])
                    part = values[np.ix_(own >= 0, inputs >= 0)]
                    np.logical_or.at(table, np.ix_(rows, inputs[inputs >= 0]), part)
    return seen, free, {name: channels for name, channels in probed.items() if channels.size}


def _stopped(graph: Graph, source: str, target: str) -> bool:
    return any(source in stop.before and target in stop.after for stop in graph.barriers)


def _difference(
    source: str, target: str, claim: np.ndarray, missing: np.ndarray, more: np.ndarray
) -> str:
    if not claim.any():
        return f"{source} -> {target}: not in the graph"
    parts = [
        f"{count} of {claim.size} pairs {what}"
        for count, what in ((missing.sum(), "not in the graph"), (more.sum(), "in the graph alone"))
        if count
    ]
    return f"{source} -> {target}: {', '.join(parts)}"


def _lost(
    found: Reached, ends: Sequence[Sequence[_End]], leaves: Mapping[str, Any],
    starts: Mapping[str, Any],
) -> tuple[str, ...]:  # fmt: skip
    names, first = list(leaves), np.array(list(starts.values()))
    lost: dict[str, None] = {}
    for each, own in zip(found.readings, ends, strict=True):
        read = np.zeros(each.table.shape, bool)
        for end in own:
            read |= (end.inputs >= 0)[:, None] & (end.outputs >= 0)
        places = np.unique(each.table[~read & (each.table >= 0)])
        if (each.table < 0).all():
            lost["a kernel made of several parameters"] = None
        owners = np.unique(np.searchsorted(first, places, "right") - 1)
        lost |= dict.fromkeys(names[owner] for owner in owners)
    return tuple(lost)

"""Channels of layers and junctions that are one neuron: connected components."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from lap_jax.graph.layers import IDENTITY, Edge, Junction, Layer
from lap_jax.graph.links import Link, components
from lap_jax.graph.queries import Grouped, reaches, single
from lap_jax.graph.structure import Structure

Side = tuple[str, str]
"""A layer or junction, and "in" or "out"."""


class Places:
    """Numbers of all channels: outputs of layers first, then of junctions, then inputs of layers.

    Attributes:
      starts, sizes: by side; inputs and outputs of a junction are the same.
      count: how many there are.
    """

    def __init__(self, graph: Structure) -> None:
        """Number the channels of a graph."""
        self.starts: dict[Side, int] = {}
        self.sizes: dict[Side, int] = {}
        self.count = 0
        for part in graph.parts.values():
            self._add((part.name, "out"), part.out_size)
        for layer in graph.layers:
            self._add((layer.name, "in"), layer.in_size)
        for junction in graph.junctions:
            self.starts[junction.name, "in"] = self.starts[junction.name, "out"]
            self.sizes[junction.name, "in"] = junction.size

    def _add(self, side: Side, size: int) -> None:
        self.starts[side], self.sizes[side] = self.count, size
        self.count += size

    def of(self, side: Side) -> np.ndarray:
        """Return the numbers of a side's channels."""
        return np.arange(self.starts[side], self.starts[side] + self.sizes[side])


def together(
    graph: Structure, places: Places, grouped: list[Grouped] | None = None
) -> Iterator[Link]:
    """Give what goes together, first layers first.

    Args:
      graph, places: the channels.
      grouped: queries that go without the keys and values that they share.
    """
    apart = {each.product: each for each in grouped or ()}
    loose = set(apart) | {name for each in apart.values() for name in each.values}
    for edge in graph.edges:
        if IDENTITY not in (edge.source, edge.target) and not _gates_many(graph, edge):
            if edge.source in loose or edge.target in apart:
                starts = places.starts[edge.source, "out"], places.starts[edge.target, "in"]
                yield Link(*(single(graph, edge, [*apart.values()]) + np.array(starts)).T)
            else:
                yield _along(graph, places, edge)
    for each in graph.shared:
        if each.source in graph.parts and each.target in graph.parts:
            if each.source in apart and each.target != each.source:
                continue
            starts = places.starts[each.source, "out"], places.starts[each.target, "out"]
            yield Link(*(each.pairs.values + np.array(starts)).T)
    for product, own in apart.items():
        _, first, rank = np.unique(own.ranks, return_index=True, return_inverse=True)
        yield Link(places.of((product, "out")), places.of((product, "out"))[first[rank]])
        for asked in reaches(graph, own):
            starts = places.starts[product, "out"], places.starts[asked.target, "in"]
            yield Link(*(asked.pairs.values + np.array(starts)).T)
    for layer in graph.layers:
        if layer.groups > 1:
            yield from _of_groups(layer, places)
        if layer.tied_to:
            yield from _tied(graph[layer.tied_to], layer, places)


def gates_of_many(graph: Structure) -> list[str]:
    """Return layers and junctions of which one channel multiplies several neurons at once."""
    return [edge.source for edge in graph.edges if _gates_many(graph, edge)]


def _gates_many(graph: Structure, edge: Edge) -> bool:
    """Return whether each channel multiplies several of a product, as a router does of an expert.

    Not of queries with keys: there those that share keys go together.
    """
    target = graph.parts.get(edge.target)
    if not isinstance(target, Junction) or target.kind != "product" or edge.source == IDENTITY:
        return False
    if edge.is_plain or graph.ends_at_positions(edge.target):
        return False
    pairs = edge.pairs_of(graph.parts[edge.source].out_size, target.size)
    return len(np.unique(pairs[:, 0])) < len(pairs)


def _along(graph: Structure, places: Places, edge: Edge) -> Link:
    source, target = graph.parts[edge.source], graph.parts[edge.target]
    start, end = places.starts[edge.source, "out"], places.starts[edge.target, "in"]
    if edge.pairs is None and edge.positions == 1:
        end += edge.offset
        size = source.out_size
        return Link(slice(start, start + size), slice(end, end + size), True)
    return Link(*(edge.pairs_of(source.out_size, target.in_size) + np.array((start, end))).T)


def _of_groups(layer: Layer, places: Places) -> Iterator[Link]:
    """Give what goes together in a kernel of groups.

    Of a convolution all of a group; of kernels side by side, as of experts, the same channel of
    each, for the leaf is to stay a block.
    """
    into = places.of((layer.name, "in")).reshape(layer.groups, -1)
    out = places.of((layer.name, "out")).reshape(layer.groups, -1)
    if layer.is_conv:
        both = np.concatenate([into, out], 1)
        yield _link(both[:, :1], both)
        return
    for side in (into, out):
        yield _link(side[:1], side)


def _link(one: np.ndarray, other: np.ndarray) -> Link:
    return Link(np.broadcast_to(one, other.shape).ravel(), other.ravel())


def _tied(first: Layer, again: Layer, places: Places) -> Iterator[Link]:
    """Give rows and columns of weights that are read in two ways, where they are the same ones."""
    for side, own in strides_of(again).items():
        for other, steps in strides_of(first).items():
            if steps == own and own:
                yield _link(places.of((first.name, other)), places.of((again.name, side)))


def strides_of(layer: Layer) -> dict[str, tuple[tuple[int, int], ...]]:
    """Return how inputs and outputs step through the leaf: ``(size, stride)`` of its axes."""
    axes = _axes(layer)
    steps = np.cumprod([1, *layer.split[:0:-1]])[::-1] if layer.split else None
    found: dict[str, tuple[tuple[int, int], ...]] = {}
    if layer.groups > 1:
        return {"in": (), "out": ()}
    for side, own in axes.items():
        if steps is None:
            inner = layer.shape[-1] if side == "in" else 1
            found[side] = ((own[0][1], inner),)
            continue
        merged: list[tuple[int, int]] = []
        for axis, size in own:
            step = int(steps[axis])
            if merged and merged[-1][1] == size * step:
                merged[-1] = (merged[-1][0] * size, step)
            else:
                merged.append((size, step))
        found[side] = tuple(merged)
    return found


def _axes(layer: Layer) -> dict[str, list[tuple[int, int]]]:
    """Return, of inputs and outputs, the axes of the leaf that they are: ``(axis, size)``."""
    *window, into, out = layer.shape
    if not layer.split:
        return {"in": [(len(window), into)], "out": [(len(window) + 1, out)]}
    order, found = list(layer.order), []
    for size in (math.prod(window), into, out):
        own: list[tuple[int, int]] = []
        while math.prod(each for _, each in own) < size:
            axis = order.pop(0)
            own.append((axis, layer.split[axis]))
        found.append(own)
    return {"in": found[1], "out": found[2]}


def neurons_by_channel(
    graph: Structure, places: Places, grouped: list[Grouped] | None = None
) -> np.ndarray:
    """Return, of each channel, the least that is one neuron with it.

    A leaf must be able to lose a neuron without a hole in it. Where outputs, or inputs, of a kernel
    are several axes of its leaf and neurons differ along more than one of them, those that differ
    along the last alone are one.
    """
    links = list(together(graph, places, grouped))
    while True:
        roots = components(places.count, links)
        merged = []
        for layer in graph.layers:
            for side, axes in _axes(layer).items():
                sizes = [size for _, size in axes]
                if len(sizes) < 2:
                    continue
                own = places.of((layer.name, side))[: math.prod(sizes)].reshape(sizes)
                found = roots[own]
                along = [i for i, size in enumerate(sizes)
                         if size > 1 and (found != found.take([0], i)).any()]  # fmt: skip
                if len(along) > 1:
                    merged.append(_link(own.take([0], along[-1]), own))
        if not merged:
            return roots
        links += merged

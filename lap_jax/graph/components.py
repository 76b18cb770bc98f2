"""Channels of layers and junctions that are one neuron: connected components."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from lap_jax.graph.layers import IDENTITY, Edge, Layer
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


def together(graph: Structure, places: Places) -> Iterator[np.ndarray]:
    """Give pairs of channels that are one neuron, ``[n, 2]``."""
    yield np.zeros((0, 2), np.int64)
    for edge in graph.edges:
        if IDENTITY not in (edge.source, edge.target):
            yield _ends(graph, places, edge)
    for each in graph.shared:
        if each.source in graph.parts and each.target in graph.parts:
            starts = places.starts[each.source, "out"], places.starts[each.target, "out"]
            yield each.pairs.values + np.array(starts)
    for layer in graph.layers:
        if layer.groups > 1:
            yield _of_groups(layer, places)
        if layer.tied_to:
            yield from _tied(graph[layer.tied_to], layer, places)


def _ends(graph: Structure, places: Places, edge: Edge) -> np.ndarray:
    source, target = graph.parts[edge.source], graph.parts[edge.target]
    starts = places.starts[edge.source, "out"], places.starts[edge.target, "in"]
    return edge.pairs_of(source.out_size, target.in_size) + np.array(starts)


def _of_groups(layer: Layer, places: Places) -> np.ndarray:
    """Return what goes together in a kernel of groups.

    Of a convolution all of a group; of kernels side by side, as of experts, the same channel of
    each, for the leaf is to stay a block.
    """
    into = places.of((layer.name, "in")).reshape(layer.groups, -1)
    out = places.of((layer.name, "out")).reshape(layer.groups, -1)
    if layer.is_conv:
        both = np.concatenate([into, out], 1)
        return _pairs(np.broadcast_to(both[:, :1], both.shape), both)
    columns = [_pairs(np.broadcast_to(side[:1], side.shape), side) for side in (into, out)]
    return np.concatenate(columns)


def _pairs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.stack([one.ravel(), other.ravel()], 1)


def _tied(first: Layer, again: Layer, places: Places) -> Iterator[np.ndarray]:
    """Give rows and columns of weights that are read in two ways, where they are the same ones."""
    for side, own in strides_of(again).items():
        for other, steps in strides_of(first).items():
            if steps == own and own:
                yield _pairs(places.of((first.name, other)), places.of((again.name, side)))


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


def components(count: int, pairs: np.ndarray) -> np.ndarray:
    """Return, of each number, the least that it is connected with by pairs."""
    least = np.arange(count)
    one, other = pairs[:, 0], pairs[:, 1]
    while True:
        meet = np.minimum(least[one], least[other])
        before = least.copy()
        for end in (one, other):
            np.minimum.at(least, before[end], meet)
            np.minimum.at(least, end, meet)
        least = least[least]
        if np.array_equal(least, before):
            return least


def as_rectangles(graph: Structure, places: Places, roots: np.ndarray) -> np.ndarray:
    """Merge neurons of which a leaf could not be rid without a hole in it.

    Where the outputs, or inputs, of a kernel are several axes of its leaf and neurons differ along
    more than one of them, those that differ along the last alone are one.
    """
    while True:
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
                    first = own.take([0], along[-1])
                    merged.append(_pairs(np.broadcast_to(first, own.shape), own))
        if not merged:
            return roots
        chain = np.stack([np.arange(len(roots)), roots], 1)
        roots = components(len(roots), np.concatenate([chain, *merged]))

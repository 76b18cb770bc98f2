"""Which layer a kernel is, and which channels it reads and gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lap_jax.graph.layers import IDENTITY, Layer
from lap_jax.tracing import channels
from lap_jax.tracing.builder import GraphBuilder, Reading
from lap_jax.tracing.channels import NONE
from lap_jax.tracing.values import Source, Traced
from lap_jax.tracing.views import View


def layer_of(
    builder: GraphBuilder, view: View, roles: Sequence[Sequence[int]], strides: int = 1,
    groups: int = 1,
) -> str | None:  # fmt: skip
    """Return the name of the layer that a kernel is; None if it is no whole part of its leaf.

    Args:
      builder: where the layer is added, if it is new.
      view: the kernel.
      roles: its axes that are window, inputs, groups and outputs.
      strides, groups: of a convolution.
    """
    place = place_of(view, builder.shapes[view.leaf])
    if place is None:
        return None
    axes = [axis for axis in in_leaf(view, range(len(view.shape))) if view.shape[axis] > 1]
    window, inputs, batch, outputs = (in_leaf(view, role) for role in roles)
    window_size, in_size, batch_size, out_size = (
        [view.shape[axis] for axis in role] for role in (window, inputs, batch, outputs)
    )
    shape = (*window_size, math.prod(in_size), math.prod(batch_size + out_size))
    split = tuple(view.shape[axis] for axis in axes)
    order = tuple(
        axes.index(axis) for axis in (*window, *inputs, *batch, *outputs) if view.shape[axis] > 1
    )
    part = builder.shapes[view.leaf][len(place) :]
    if part == shape and order == tuple(range(len(axes))):
        split = order = ()
    groups = max(groups, math.prod(batch_size))
    way = (view.leaf, place, split, order, shape, groups)
    if way not in builder.ways:
        builder.ways[way] = _add(
            builder,
            Layer("", view.leaf, shape, groups, (), strides, 1, place, split, order),
        )
    return builder.ways[way]


def place_of(view: View, leaf: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the first indices of the part of a leaf that a view shows; None if it is no part."""
    size = 1
    for axis in reversed(in_leaf(view, range(len(view.shape)))):
        if view.shape[axis] > 1 and view.strides[axis] != size:
            return None
        size *= view.shape[axis]
    if view.offset % size or size == 0:
        return None
    count = math.prod(leaf) // size
    if count == 1:
        return ()
    for lead in range(1, len(leaf) + 1):
        if math.prod(leaf[:lead]) == count:
            return tuple(int(i) for i in np.unravel_index(view.offset // size, leaf[:lead]))
    return None


def _add(builder: GraphBuilder, layer: Layer) -> str:
    """Add a layer under a name of its own, and return that."""
    stem = layer.path.removesuffix("/kernel").removesuffix("/embedding")
    name = stem + "".join(f"[{index}]" for index in layer.place)
    same_leaf = [other for other in builder.layers.values() if other.path == layer.path]
    tied_to = next((other.name for other in same_leaf if other.place == layer.place), "")
    if name in builder.layers:
        name = f"{name} (read {len(same_leaf) + 1})"
    builder.layers[name] = replace(layer, name=name, tied_to=tied_to)
    return name


def in_leaf(view: View, axes: Sequence[int], before: Sequence[int] = ()) -> list[int]:
    """Return axes in the leaf's own order, those ``before`` the others first."""
    return sorted(axes, key=lambda axis: (axis not in before, -view.strides[axis], axis))


def numbered(
    view: View, axes: Sequence[int], at: Sequence[int], shape: Sequence[int],
    before: Sequence[int] = (),
) -> np.ndarray:  # fmt: skip
    """Number what a kernel reads or gives, in the leaf's own order.

    Args:
      view: the kernel.
      axes: its axes.
      at: the axes of an activation that these go with.
      shape: of that.
      before: those of the axes that come first, such as groups.
    """
    partner = dict(zip(axes, at, strict=True))
    order = in_leaf(view, axes, before)
    places, sizes = [partner[axis] for axis in order], [view.shape[axis] for axis in order]
    return channels.numbered(shape, places, sizes)


def enter(builder: GraphBuilder, value: Traced, rows: np.ndarray, layer: str) -> None:
    """Lead an activation to a layer; ``rows`` numbers the layer's inputs."""
    builder.consume(value, layer)
    builder.readings.append(Reading(layer, rows))
    if value.unit and value.sources:
        builder.connect_identity(IDENTITY, layer)
    for head in value.asked:
        _, pairs = channels.distinct([head.ids, rows], 2)
        builder.asked.setdefault((head.node, layer), []).append(pairs[(pairs != NONE).all(1)])
    for source in value.sources:
        _, pairs = channels.distinct([source.ids, rows], 1)
        builder.connect(source.node, layer, pairs, source.scale)
        root = builder.root(source.node)
        if source.pool > 1 and root in builder.layers:
            builder.layers[root] = replace(builder.layers[root], pool=source.pool)


def output(layer: str, ids: np.ndarray) -> Traced:
    """Return what a layer gives."""
    return Traced(ids.shape, (Source(layer, ids),))

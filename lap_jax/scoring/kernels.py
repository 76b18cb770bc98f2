"""Kernels in the shape that scores are written for, and back in their leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Sharding

from lap_jax.batching import Part, for_each
from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import Layer
from lap_jax.meshes import as_laid_out


class Layout(NamedTuple):
    """How a kernel lies in its part of a leaf: what layers of one compiled program share.

    Attributes:
      shape: of the kernel, ``(*window, in / groups, out)``.
      groups: feature groups.
      split, order: as in `Layer`.
    """

    shape: tuple[int, ...]
    groups: int = 1
    split: tuple[int, ...] = ()
    order: tuple[int, ...] = ()


def layout_of(layer: Layer) -> Layout:
    """Return how a layer's kernel lies in its part of a leaf."""
    return Layout(layer.shape, layer.groups, layer.split, layer.order)


def part_of(layer: Layer, leaf: jax.Array) -> Part:
    """Return a layer's part of its leaf, which is not cut out yet."""
    return Part(leaf, tuple(np.int32(index) for index in layer.place))


def read(layout: Layout, part: Part) -> jax.Array:
    """Return a kernel, ``(*window, in / groups, out)``, from its part of a leaf."""
    array = part.leaf
    for index in part.place:
        array = lax.dynamic_index_in_dim(array, index, 0, keepdims=False)
    return as_kernel(layout, array)


def kernel_of(layer: Layer, leaf: Any) -> Any:
    """Return a layer's part of a leaf, NumPy or JAX, as ``(*window, in / groups, out)``."""
    return as_kernel(layout_of(layer), leaf[layer.place] if layer.place else leaf)


def as_kernel(layout: Layout, array: Any) -> Any:
    """Return a part of a leaf, NumPy or JAX, as ``(*window, in / groups, out)``."""
    if not layout.split:
        return array
    return array.reshape(layout.split).transpose(layout.order).reshape(layout.shape)


def in_leaf(layout: Layout, kernel: Any, shape: tuple[int, ...]) -> Any:
    """Return an array of the kernel's shape as the part of the leaf, of ``shape``, that it is.

    Of NumPy or JAX.
    """
    if not layout.split:
        return kernel.reshape(shape)
    split = tuple(layout.split[axis] for axis in layout.order)
    back = tuple(int(axis) for axis in np.argsort(layout.order))
    return kernel.reshape(split).transpose(back).reshape(shape)


def as_read(first: Layout, again: Layout, kernel: jax.Array) -> jax.Array:
    """Bring an array from one shape in which weights are read to another."""
    if again.split:
        return as_kernel(again, in_leaf(first, kernel, (math.prod(first.shape),)))
    return in_leaf(first, kernel, again.shape)


def leaves_of(
    graph: Graph, arrays: Mapping[str, jax.Array], shapes: Mapping[str, tuple[int, ...]],
    shardings: Mapping[str, Sharding | None],
) -> dict[str, jax.Array]:  # fmt: skip
    """Put boolean arrays of layers together into leaves by path; True where no layer is.

    Args:
      graph: the layers.
      arrays: by layer name, of the kernels' shapes; a layer that is absent is True.
      shapes, shardings: of the leaves, by path; no sharding leaves it to the compiler.
    """
    parts: dict[str, dict[tuple[int, ...], Layer]] = {}
    for layer in graph.layers:
        if not layer.tied_to:
            parts.setdefault(layer.path, {})[layer.place] = layer
    found, calls = {}, {}
    for path, layers in parts.items():
        lead = shapes[path][: len(next(iter(layers)))]
        places = [tuple(map(int, index)) for index in np.ndindex(*lead)]
        own = [arrays.get(layers[place].name) if place in layers else None for place in places]
        if not lead and own[0] is not None and not layers[()].split:
            found[path] = own[0]
            continue
        layouts = tuple(layout_of(layers[place]) if place in layers else None for place in places)
        how = (layouts, shapes[path], len(lead), shardings[path])
        calls[path] = how, tuple(own)
    found |= for_each(_together, calls, _together_on_host)
    return {path: found[path] for path in parts}


def _together_on_host(
    how: tuple[tuple[Layout | None, ...], tuple[int, ...], int, Sharding | None],
    *parts: np.ndarray | None,
) -> np.ndarray | None:  # fmt: skip
    layouts, shape, lead, sharding = how
    if sharding is not None:
        return None
    mask = np.ones((len(parts), *shape[lead:]), bool)
    for place, (layout, part) in enumerate(zip(layouts, parts, strict=True)):
        if part is not None and layout is not None:
            mask[place] = in_leaf(layout, part, shape[lead:])
    return mask.reshape(shape)


def _together(
    how: tuple[tuple[Layout | None, ...], tuple[int, ...], int, Sharding | None],
    *parts: jax.Array | None,
) -> jax.Array:  # fmt: skip
    layouts, shape, lead, sharding = how
    rest = shape[lead:]
    pieces = [
        jnp.ones(rest, bool) if part is None or layout is None else in_leaf(layout, part, rest)
        for layout, part in zip(layouts, parts, strict=True)
    ]
    return as_laid_out(jnp.stack(pieces).reshape(shape), sharding)

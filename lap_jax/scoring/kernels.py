"""Kernels in the shape that scores are written for, and back in their leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import Node


def kernel_of(layer: Node, leaf: Any) -> jax.Array:
    """Return a layer's part of a leaf as ``(*window, in / groups, out)``."""
    part = leaf[layer.place] if layer.place else leaf
    if not layer.split:
        return part
    return part.reshape(layer.split).transpose(layer.order).reshape(layer.shape)


def in_leaf(layer: Node, kernel: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return an array of the kernel's shape as the part of the leaf, of ``shape``, that it is."""
    if not layer.split:
        return kernel.reshape(shape)
    split = tuple(layer.split[axis] for axis in layer.order)
    back = tuple(int(axis) for axis in np.argsort(layer.order))
    return kernel.reshape(split).transpose(back).reshape(shape)


def as_read(first: Node, again: Node, kernel: jax.Array) -> jax.Array:
    """Bring an array from one shape in which weights are read to another."""
    size = (math.prod(first.shape),)
    if again.split:
        again = replace(again, place=())
        return kernel_of(again, in_leaf(first, kernel, size))
    return in_leaf(first, kernel, again.shape)


def leaves_of(
    graph: Graph, arrays: Mapping[str, jax.Array], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, jax.Array]:
    """Put boolean arrays of layers together into leaves by path; True where no layer is."""
    parts: dict[str, dict[tuple[int, ...], Node]] = {}
    for layer in graph.layers:
        if not layer.reads:
            parts.setdefault(layer.path, {})[layer.place] = layer
    found = {}
    for path, layers in parts.items():
        shape = shapes[path]
        depth = len(next(iter(layers)))
        if depth == 0:
            (layer,) = layers.values()
            whole = arrays[layer.name]
            found[path] = whole if not layer.split else in_leaf(layer, whole, shape)
            continue
        rest = shape[depth:]
        pieces = [
            in_leaf(layers[place], arrays[layers[place].name], rest)
            if place in layers
            else jnp.ones(rest, bool)
            for place in (tuple(map(int, index)) for index in np.ndindex(*shape[:depth]))
        ]
        found[path] = jnp.stack(pieces).reshape(shape)
    return found

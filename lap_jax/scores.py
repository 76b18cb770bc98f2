"""Scores of weights: arrays in, arrays out.

Whatever is squared is first divided by a power of two near its maximum, so that scores do not
depend on the scale of the weights.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lap_jax.graphs import IDENTITY, Edge, Graph, Node

Flows = dict[str, tuple[jax.Array, jax.Array]]


def magnitude(kernel: jax.Array) -> jax.Array:
    """Return ``|w|`` (Eq. 1), in float32, or float64 for a float64 kernel."""
    return jnp.abs(_widen(kernel))


def random(layer: Node, key: jax.Array) -> jax.Array:
    """Return uniform scores in [0, 1), float32, of the kernel's shape.

    They depend on the key and the layer's path alone, so that masks of two sparsities nest.
    """
    return jax.random.uniform(jax.random.fold_in(key, zlib.crc32(layer.path.encode())), layer.shape)


def lookahead(
    graph: Graph, layer: Node, kernel: jax.Array, flows: Flows, gains: Mapping[str, jax.Array],
    direction: str, rescale: bool = False,
) -> jax.Array:  # fmt: skip
    """Return the lookahead distortion of every weight of a layer (Eq. 5; with norms, Eq. 9).

    ``|w| * input[j] * output[k]`` for ``w`` from input neuron ``j`` to output neuron ``k``, with

        input[j]**2  = sum over the layers before of a_prev[j]**2 * ||W_prev[j, :]||**2
        output[k]**2 = a[k]**2 * sum over the layers after of ||W_next[:, k]||**2

    where an identity branch adds one to the sum.

    A side without neighbours counts as one (the paper's tensors of ones, up to a constant).

    Args:
      graph: the graph that ``layer`` is a node of.
      layer: the layer to score.
      kernel: its kernel, ``(*window, in / groups, out)``.
      flows: ``{name: (in [in], out [out])}`` of every layer, from `flow`.
      gains: ``{name: a [out]}`` of every layer that a norm follows, from `gain`.
      direction: "both", "forward" (the next layers alone) or "backward" (the previous alone).
      rescale: divide each side by a power of two near its maximum. The order within the layer stays
        the same to the bit, and the scores neither overflow nor underflow.

    Returns:
      Scores of the kernel's shape, float32 or wider.
    """
    score = _grouped(magnitude(kernel), layer)
    if direction in ("both", "backward"):
        side = _input(graph, layer, flows, gains)
        side = side / _near(side) if rescale else side
        score = score * side.reshape(layer.groups, -1).T[None, :, :, None]
    if direction in ("both", "forward"):
        side = _output(graph, layer, flows, gains)
        side = side / _near(side) if rescale else side
        score = score * side.reshape(layer.groups, -1)[None, None]
    return score.reshape(layer.shape)


def flow(layer: Node, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return norms of a kernel: per input neuron ``[in]`` and per output neuron ``[out]``.

    ``in[j] = ||W[:, j]||_F`` in the paper's notation (weights that leave input neuron ``j``),
    ``out[k] = ||W[k, :]||_F`` (weights that arrive at output neuron ``k``).
    """
    weights = _grouped(_widen(kernel), layer)
    near = _near(weights)
    squares = jnp.square(weights / near)
    leaving, arriving = squares.sum((0, 3)).T.reshape(-1), squares.sum((0, 1)).reshape(-1)
    return near * jnp.sqrt(leaving), near * jnp.sqrt(arriving)


def gain(layer: Node, tensors: Mapping[str, jax.Array]) -> jax.Array:
    """Return ``a = |scale| / sqrt(var + epsilon)`` per output channel, ``[out]`` (Eq. 8).

    A distortion is not negative, a scale may be.
    """
    factor = jnp.ones(layer.out_size, jnp.float32)
    if "scale" in tensors:
        factor = factor * jnp.abs(_widen(tensors["scale"]))
    if "var" in tensors:
        assert layer.norm is not None
        factor = factor / jnp.sqrt(_widen(tensors["var"]) + layer.norm.epsilon)
    return factor


def _input(graph: Graph, layer: Node, flows: Flows, gains: Mapping[str, Any]) -> jax.Array:
    ones = jnp.ones(layer.in_size, jnp.float32)
    branches = [
        ones
        if edge.source == IDENTITY
        else _spread(edge, flows[edge.source][1] * gains.get(edge.source, 1.0), layer)
        for edge in graph.into(layer.name)
    ]
    return _norm(jnp.stack(branches or [ones]))


def _output(graph: Graph, layer: Node, flows: Flows, gains: Mapping[str, Any]) -> jax.Array:
    ones = jnp.ones((1, layer.out_size), jnp.float32)
    branches = [
        ones if edge.target == IDENTITY else _collect(edge, flows[edge.target][0], layer)
        for edge in graph.out_of(layer.name)
    ]
    return _norm(jnp.concatenate(branches or [ones])) * gains.get(layer.name, 1.0)


def _spread(edge: Edge, values: jax.Array, target: Node) -> jax.Array:
    """Bring values per output channel of the source to the input neurons of the target."""
    width = target.in_size // edge.positions
    after = width - edge.offset - values.size
    return jnp.tile(jnp.pad(values, (edge.offset, after)), edge.positions)


def _collect(edge: Edge, values: jax.Array, source: Node) -> jax.Array:
    """Bring values per input neuron of the target to the source, a row per position."""
    per_position = values.reshape(edge.positions, -1)
    return per_position[:, edge.offset : edge.offset + source.out_size]


def _norm(rows: jax.Array) -> jax.Array:
    """Return the Euclidean norm over the first axis; of a single row, the row itself."""
    if rows.shape[0] == 1:
        return rows[0]
    near = _near(rows)
    return near * jnp.sqrt(jnp.square(rows / near).sum(0))


def _near(x: jax.Array) -> jax.Array:
    """Return a power of two near the largest ``|x|``.

    Divided by it, numbers keep their digits, and neither squares nor products leave the range of
    the floating-point type.
    """
    exponent = jnp.frexp(jnp.max(jnp.abs(x)))[1]
    limits = jnp.finfo(x.dtype)
    return jnp.ldexp(jnp.ones((), x.dtype), jnp.clip(exponent, limits.minexp, limits.maxexp - 1))


def _grouped(kernel: jax.Array, layer: Node) -> jax.Array:
    """View a kernel as ``[window, in / groups, groups, out / groups]``."""
    return kernel.reshape(-1, layer.shape[-2], layer.groups, layer.shape[-1] // layer.groups)


def _widen(array: jax.Array) -> jax.Array:
    return jnp.asarray(array).astype(jnp.promote_types(jnp.result_type(array), jnp.float32))

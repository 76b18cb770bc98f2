"""Scores of weights: arrays in, arrays out.

Norms are carried squared: they add up over neighbours, and no square root is taken twice.
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
    graph: Graph, layer: Node, kernel: jax.Array, flows: Flows, gains2: Mapping[str, jax.Array],
    direction: str, rescale: bool = False,
) -> jax.Array:  # fmt: skip
    """Return the lookahead distortion of every weight of a layer (Eq. 5; with norms, Eq. 9).

    ``|w| * sqrt(input2[j]) * sqrt(output2[k])`` for ``w`` from input neuron ``j`` to output neuron
    ``k``, with

        input2[j]  = sum over the layers before of a_prev[j]**2 * ||W_prev[j, :]||**2
        output2[k] = a[k]**2 * sum over the layers after of ||W_next[:, k]||**2

    where an identity branch adds one to the sum.

    A side without neighbours counts as one (the paper's tensors of ones, up to a constant).

    Args:
      graph: the graph that ``layer`` is a node of.
      layer: the layer to score.
      kernel: its kernel, ``(*window, in / groups, out)``.
      flows: ``{name: (in2 [in], out2 [out])}`` of every layer, from `flow`.
      gains2: ``{name: a**2 [out]}`` of every layer that a norm follows, from `squared_gain`.
      direction: "both", "forward" (the next layers alone) or "backward" (the previous alone).
      rescale: divide each side by a power of two near its maximum. The order within the layer stays
        the same to the bit, and the scores neither overflow nor underflow.

    Returns:
      Scores of the kernel's shape, float32 or wider.
    """
    score = _grouped(magnitude(kernel), layer)
    if direction in ("both", "backward"):
        factor = _factor(_input2(graph, layer, flows, gains2), rescale)
        score = score * factor.reshape(layer.groups, -1).T[None, :, :, None]
    if direction in ("both", "forward"):
        factor = _factor(_output2(graph, layer, flows, gains2), rescale)
        score = score * factor.reshape(layer.groups, -1)[None, None]
    return score.reshape(layer.shape)


def flow(layer: Node, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return squared norms of a kernel: per input neuron ``[in]`` and per output neuron ``[out]``.

    ``in2[j] = ||W[:, j]||_F**2`` in the paper's notation (weights that leave input neuron ``j``),
    ``out2[k] = ||W[k, :]||_F**2`` (weights that arrive at output neuron ``k``).
    """
    squares = jnp.square(_grouped(_widen(kernel), layer))
    return squares.sum((0, 3)).T.reshape(-1), squares.sum((0, 1)).reshape(-1)


def squared_gain(layer: Node, tensors: Mapping[str, jax.Array]) -> jax.Array:
    """Return ``a**2 = scale**2 / (var + epsilon)`` per output channel, ``[out]`` (Eq. 8).

    The square also takes care of the sign: a distortion is not negative, a scale may be.
    """
    gain2 = jnp.ones(layer.out_size, jnp.float32)
    if "scale" in tensors:
        gain2 = gain2 * jnp.square(_widen(tensors["scale"]))
    if "var" in tensors:
        assert layer.norm is not None
        gain2 = gain2 / (_widen(tensors["var"]) + layer.norm.epsilon)
    return gain2


def _input2(graph: Graph, layer: Node, flows: Flows, gains2: Mapping[str, Any]) -> jax.Array:
    total = jnp.zeros(layer.in_size, jnp.float32)
    edges = graph.into(layer.name)
    for edge in edges:
        if edge.source == IDENTITY:
            total = total + 1.0
        else:
            total = total + _spread(
                edge, flows[edge.source][1] * gains2.get(edge.source, 1.0), layer
            )
    return total if edges else total + 1.0


def _output2(graph: Graph, layer: Node, flows: Flows, gains2: Mapping[str, Any]) -> jax.Array:
    total = jnp.zeros(layer.out_size, jnp.float32)
    edges = graph.out_of(layer.name)
    for edge in edges:
        total = total + (
            1.0 if edge.target == IDENTITY else _collect(edge, flows[edge.target][0], layer)
        )
    return (total if edges else total + 1.0) * gains2.get(layer.name, 1.0)


def _spread(edge: Edge, values: jax.Array, target: Node) -> jax.Array:
    """Bring values per output channel of the source to the input neurons of the target."""
    width = target.in_size // edge.positions
    after = width - edge.offset - values.size
    return jnp.tile(jnp.pad(values, (edge.offset, after)), edge.positions)


def _collect(edge: Edge, values: jax.Array, source: Node) -> jax.Array:
    """Sum values per input neuron of the target into the source's output channels."""
    per_position = values.reshape(edge.positions, -1)
    return per_position[:, edge.offset : edge.offset + source.out_size].sum(0)


def _factor(squares: jax.Array, rescale: bool) -> jax.Array:
    factor = jnp.sqrt(squares)
    if not rescale:
        return factor
    exponent = jnp.frexp(jnp.max(factor))[1]
    return jnp.ldexp(factor, -exponent)


def _grouped(kernel: jax.Array, layer: Node) -> jax.Array:
    """View a kernel as ``[window, in / groups, groups, out / groups]``."""
    return kernel.reshape(-1, layer.shape[-2], layer.groups, layer.shape[-1] // layer.groups)


def _widen(array: jax.Array) -> jax.Array:
    return jnp.asarray(array).astype(jnp.promote_types(jnp.result_type(array), jnp.float32))

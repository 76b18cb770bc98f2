"""The exact lookahead of convolutions: what Eq. 5 leaves out of Eq. 4.

Two convolutions in a row have the Frobenius norm of their kernels' convolution, not the product of
their norms. A weight ``w`` from input channel ``j`` to output channel ``k`` of a layer changes the
product of the previous layer, this one and the next by

    L(w)**2 = w**2 * M[j, k]
    M[j, k] = a[k]**2 * sum over lags d of R_out[k](d) * a_prev[j]**2 * R_in[j](step * d)
    R_in[j](d)  = sum over c, t of W_prev[t, c, j] * W_prev[t + d, c, j]
    R_out[k](d) = sum over o, t of W_next[t, k, o] * W_next[t + d, k, o]
    step = stride and pool of the previous layer * stride and pool of this one

times the number of positions of the last map, while no kernel reaches round the (circular) maps:
two taps of the next kernel that lie d apart read inputs that lie step * d apart. Pooling counts as
a stride. Stride and pool of the next layer and the window of this one do not enter. The lag d = 0
alone is Eq. 5 and, with the gains, Eq. 9.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lap_jax.errors import PruningError
from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import IDENTITY, Edge, Node
from lap_jax.scoring.norms import add_up, near_largest, power_of_two
from lap_jax.scoring.scores import widen


class _Branch(NamedTuple):
    """An edge at the layer, the neighbour at its other end (None: identity), and what it brings."""

    edge: Edge
    node: Node | None
    kernel: jax.Array
    gain: jax.Array


def pair_factors(
    graph: Graph, layer: Node, kernels: Mapping[str, jax.Array],
    masks: Mapping[str, jax.Array] | None, gains: Mapping[str, jax.Array], rescale: bool = False,
) -> jax.Array:  # fmt: skip
    """Return what the neighbours of a layer make of its weights: ``sqrt(M)``.

    Several previous layers add up in ``R_in``, several next ones in ``R_out``; an identity branch,
    or a side without neighbours, is a one at lag zero.

    Args:
      graph: the graph that ``layer`` is a node of.
      layer: the layer to score, by ``|w| * sqrt(M)``.
      kernels: ``{name: (*window, in / groups, out)}`` of its neighbours at least.
      masks: ``{name: bool}``, the weights that still count; None, or a layer that is absent: all.
      gains: ``{name: a [out]}`` of every layer that a norm follows.
      rescale: leave out powers of two. The order within the layer stays the same to the bit, and
        the factors neither overflow nor underflow.

    Returns:
      ``[in / groups, out]``, float32 or wider.

    Raises:
      PruningError: if an edge pairs channels one by one or ends at a junction, if neighbours differ
        in their number of window axes, or if a map before a flatten is not square.
    """
    one = jnp.ones(1, jnp.float32)
    before, after = graph.into(layer.name), graph.out_of(layer.name)
    for edge in (*before, *after):
        _check(graph, edge)

    def branch(edge: Edge, name: str, follows: bool) -> _Branch:
        if name == IDENTITY:
            return _Branch(edge, None, one, one * edge.scale)
        kernel = _values(kernels[name], None if masks is None else masks.get(name))
        gain = one if follows else widen(gains.get(name, one))
        return _Branch(edge, graph[name], kernel, gain * edge.scale)

    sources = [branch(edge, edge.source, False) for edge in before]
    targets = [branch(edge, edge.target, True) for edge in after]
    # Nothing on this side is as good as an identity.
    sources = sources or [branch(Edge(IDENTITY, layer.name), IDENTITY, False)]
    targets = targets or [branch(Edge(layer.name, IDENTITY), IDENTITY, True)]
    reach = _reach(layer, sources, targets)
    incoming, near_in = _incoming(layer, sources, reach)
    outgoing, near_out = _outgoing(layer, targets, reach)
    squares = jnp.einsum(
        "gjd,gkd->jgk",
        incoming.reshape(layer.groups, -1, incoming.shape[-1]),
        outgoing.reshape(layer.groups, -1, outgoing.shape[-1]),
        precision=lax.Precision.HIGHEST,
    )
    # A sum of squares, which rounding can bring below zero.
    factors = jnp.sqrt(jnp.maximum(squares.reshape(-1, layer.out_size), 0))
    gain = widen(gains.get(layer.name, one))
    near = near_largest(gain)
    factors = factors * (gain / near)
    return factors if rescale else factors * near_in * near_out * near


def in_lags(
    layer: Node, kernel: jax.Array, mask: jax.Array | None = None,
    near: jax.Array | float = 1.0, step: int = 1, reach: Sequence[int] | None = None,
) -> jax.Array:  # fmt: skip
    """Return ``R_in`` for what follows ``layer``: per output channel.

    Args:
      layer: the previous layer.
      kernel: its kernel, ``(*window, in / groups, out)``.
      mask: if given, the weights that still count.
      near: what the weights are divided by first.
      step: the lags are its multiples.
      reach: the largest multiple, per axis of the window; None: all lags inside the window. A dense
        layer has a window of one, along as many axes as ``reach`` has.

    Returns:
      ``[out, *(2 * reach + 1)]``, lag zero in the middle, float32 or wider.
    """
    if reach is None:
        reach = [(size - 1) // step for size in layer.shape[:-2] or (1,)]
    window = layer.shape[:-2] or (1,) * len(reach)
    values = _values(kernel, mask) / near
    return _autocorrelation(values.reshape(*window, *values.shape[-2:]), -2, step, reach)


def out_lags(
    edge: Edge, layer: Node, kernel: jax.Array, mask: jax.Array | None = None,
    near: jax.Array | float = 1.0, reach: Sequence[int] | None = None,
) -> jax.Array:  # fmt: skip
    """Return ``R_out`` for what comes before ``layer``: per input channel.

    A dense layer after a flatten has lags over the map, which is taken to be square (for three
    axes, a cube), its inputs ordered ``[h, w, c]``.

    Args:
      edge: the edge that ends at ``layer``.
      layer: the next layer.
      kernel: its kernel, ``(*window, in / groups, out)``.
      mask: if given, the weights that still count.
      near: what the weights are divided by first.
      reach: the largest lag, per axis of the window or of the flattened map; None: all lags inside
        the window, or inside a map of two axes.

    Returns:
      ``[in / positions, *(2 * reach + 1)]``, lag zero in the middle, float32 or wider.

    Raises:
      PruningError: if the map before a flatten is not square.
    """
    if reach is None:
        reach = [size - 1 for size in _window(edge, layer, 2)]
    # For lag zero alone the map may have any shape.
    window = _window(edge, layer, len(reach)) if any(reach) else (-1, *(1,) * (len(reach) - 1))
    values = _values(kernel, mask) / near
    channels = (layer.shape[-2] // edge.positions, layer.groups, layer.out_size // layer.groups)
    lags = _autocorrelation(values.reshape(*window, *channels), -1, 1, reach)
    return lags.swapaxes(0, 1).reshape(-1, *lags.shape[2:])


def _check(graph: Graph, edge: Edge) -> None:
    for name in (edge.source, edge.target):
        if name not in (IDENTITY, *graph.names):
            raise PruningError(
                f"{edge.source!r} feeds {edge.target!r}, and {name!r} is not a layer: the exact "
                "form needs layers that feed one another directly; use lags=False"
            )
    if edge.pairs is not None:
        raise PruningError(
            f"{edge.source!r} feeds {edge.target!r} by pairs of channels: the exact form needs "
            "channels in order; use lags=False"
        )


def _window(edge: Edge, layer: Node, axes: int) -> tuple[int, ...]:
    """Return the window of the next layer; after a flatten, the map, with so many axes."""
    if edge.positions == 1:
        return layer.shape[:-2] or (1,) * axes
    side = round(edge.positions ** (1 / axes))
    if side**axes != edge.positions:
        raise PruningError(
            f"layer {layer.name!r} reads {edge.positions} positions of {edge.source!r}, which make "
            f"no map of {axes} equal sides: the exact form needs one; use lags=False"
        )
    return (side,) * axes


def _step(source: Node, layer: Node) -> int:
    """Return how far apart neighbours in the map after ``layer`` lie in that before ``source``."""
    return source.strides * source.pool * layer.strides * layer.pool


def _reach(layer: Node, sources: Sequence[_Branch], targets: Sequence[_Branch]) -> tuple[int, ...]:
    """Return the largest lag that both sides have, per axis (of at least one axis).

    Raises:
      PruningError: if the layers' windows differ in their number of axes.
    """
    nodes = [layer, *(branch.node for branch in (*sources, *targets) if branch.node)]
    convs = {len(node.shape) - 2: node.name for node in nodes if node.is_conv}
    if len(convs) > 1:
        raise PruningError(
            f"layers {' and '.join(map(repr, convs.values()))} have windows of "
            f"{' and '.join(map(str, convs))} axes: the exact form needs as many in both; "
            "use lags=False"
        )
    axes = max(convs, default=1)
    before = [0] * axes
    for edge, node, *_ in sources:
        if node and node.is_conv and edge.positions == 1:
            sizes = zip(before, node.shape[:-2], strict=True)
            before = [max(far, (size - 1) // _step(node, layer)) for far, size in sizes]
    after = [0] * axes
    if any(before):
        for edge, node, *_ in targets:
            if node:
                sizes = zip(after, _window(edge, node, axes), strict=True)
                after = [max(far, size - 1) for far, size in sizes]
    return tuple(map(min, before, after))


def _incoming(
    layer: Node, sources: Sequence[_Branch], reach: Sequence[int]
) -> tuple[jax.Array, jax.Array]:
    """Return ``a_prev**2 * R_in / near**2`` of all sources, ``[in, lags]``, and ``near``."""
    near, rows = _near(sources), []
    for edge, node, kernel, gain in sources:
        top = near_largest(gain)
        square = jnp.square(gain / top)[:, None]
        if node is None:
            rows.append(square * _delta(layer.in_size, reach, near / top))
            continue
        lags = in_lags(node, kernel, None, near / top, _step(node, layer), reach)
        lags = square * lags.reshape(node.out_size, -1)
        after = layer.in_size // edge.positions - edge.offset - node.out_size
        lags = jnp.pad(lags, ((edge.offset, after), (0, 0)))
        rows.append(jnp.tile(lags, (edge.positions, 1)))
    return sum(rows[1:], rows[0]), near


def _outgoing(
    layer: Node, targets: Sequence[_Branch], reach: Sequence[int]
) -> tuple[jax.Array, jax.Array]:
    """Return ``R_out / near**2`` of all targets, ``[out, lags]``, and ``near``."""
    near, rows = _near(targets), []
    for edge, node, kernel, gain in targets:
        unit = near / gain
        if node is None:
            rows.append(_delta(layer.out_size, reach, unit))
            continue
        lags = out_lags(edge, node, kernel, None, unit, reach)
        lags = lags[edge.offset : edge.offset + layer.out_size]
        rows.append(lags.reshape(layer.out_size, -1))
    return sum(rows[1:], rows[0]), near


def _near(branches: Sequence[_Branch]) -> jax.Array:
    """Return a power of two near the largest weight times gain of all branches."""
    peaks = [jnp.max(jnp.abs(kernel)) * jnp.max(jnp.abs(gain)) for *_, kernel, gain in branches]
    return power_of_two(jnp.max(jnp.stack(peaks)))


def _delta(size: int, reach: Sequence[int], near: jax.Array) -> jax.Array:
    """Return the lags of identity, ``[size, lags]``, divided by ``near**2``."""
    count = math.prod(2 * far + 1 for far in reach)
    return jnp.zeros((size, count), near.dtype).at[:, count // 2].set(jnp.square(1 / near))


def _values(kernel: jax.Array, mask: jax.Array | None) -> jax.Array:
    return widen(kernel) if mask is None else jnp.where(mask, widen(kernel), 0)


def _autocorrelation(values: jax.Array, axis: int, step: int, reach: Sequence[int]) -> jax.Array:
    """Correlate ``[*window, ...]`` with itself along the window and add up another axis.

    Returns:
      ``[..., *(2 * reach + 1)]``: the lags that are multiples of ``step``.
    """
    axes = len(reach)
    lags = list(itertools.product(*(range(-far, far + 1) for far in reach)))
    half = []
    for lag in lags[len(lags) // 2 :]:  # The lags d and -d have the same.
        shifts = [(size, step * d) for size, d in zip(values.shape, lag, strict=False)]
        if any(abs(d) >= size for size, d in shifts):
            half.append(jnp.zeros(values.shape[axes:], values.dtype))
            continue
        here = values[tuple(slice(max(-d, 0), size - max(d, 0)) for size, d in shifts)]
        there = values[tuple(slice(max(d, 0), size + min(d, 0)) for size, d in shifts)]
        half.append(add_up((here * there).reshape(-1, *values.shape[axes:]), 0))
    # Stacked before the channels are added up: one pass over them, not one per lag.
    rows = jnp.moveaxis(add_up(jnp.stack(half), axis), 0, -1)
    full = jnp.concatenate([rows[..., :0:-1], rows], -1)
    return full.reshape(*full.shape[:-1], *(2 * far + 1 for far in reach))

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
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lap_jax.batching import Part
from lap_jax.errors import PruningError
from lap_jax.graph.layers import IDENTITY, Edge, Layer
from lap_jax.graph.structure import Structure
from lap_jax.scoring.kernels import Layout, layout_of, read
from lap_jax.scoring.norms import add_up, near_largest, power_of_two
from lap_jax.scoring.scores import widen


class Branch(NamedTuple):
    """An edge at a layer, the neighbour at its other end (None: identity), and what it brings.

    Attributes:
      edge, neighbour: as above.
      gain: of the neighbour's outputs, times the edge's scale, ``[out]`` or ``[1]``; of a next
        layer the edge's scale alone.
      peak: the neighbour's largest ``|w|``; 1 of identity.
    """

    edge: Edge
    neighbour: Layer | None
    gain: jax.Array
    peak: jax.Array


class Around(NamedTuple):
    """What surrounds a layer in the exact form.

    Attributes:
      sources, targets: branches before and after it, at least one each.
      reach: the largest lag that both sides have, per axis.
      near_in, near_out: powers of two near the largest weight times gain of each side.
    """

    sources: tuple[Branch, ...]
    targets: tuple[Branch, ...]
    reach: tuple[int, ...]
    near_in: jax.Array
    near_out: jax.Array


class Correlate(NamedTuple):
    """How a neighbour's kernel is correlated with itself: settings of one compiled program.

    Attributes:
      layout: of the kernel.
      step, reach: the lags are the multiples of ``step`` up to ``reach``, per axis.
      window: along which axes of what sizes, and the channels behind them: ``(*window, a, b, c)``.
      over: the axis of the channels that is added up, -2 for what comes before, -1 for after.
    """

    layout: Layout
    step: int
    reach: tuple[int, ...]
    window: tuple[int, ...]
    over: int


def around(
    graph: Structure, layer: Layer, gains: Mapping[str, jax.Array], peaks: Mapping[str, jax.Array]
) -> Around:
    """Return what surrounds a layer; nothing on a side is as good as an identity.

    Args:
      graph: the graph that ``layer`` is a part of.
      layer: the layer to score.
      gains: ``{name: a [out]}`` of every layer that a norm follows.
      peaks: largest ``|w|`` of each layer, of the weights that still count.

    Raises:
      PruningError: if an edge pairs channels one by one or ends at a junction, if neighbours differ
        in their number of window axes, or if a map before a flatten is not square.
    """
    one = jnp.ones(1, jnp.float32)
    before, after = graph.into(layer.name), graph.out_of(layer.name)
    for edge in (*before, *after):
        _check(graph, edge)

    def branch(edge: Edge, name: str, follows: bool) -> Branch:
        if name == IDENTITY:
            return Branch(edge, None, one * edge.scale, one[0])
        gain = one if follows else widen(gains.get(name, one))
        return Branch(edge, graph[name], gain * edge.scale, peaks[name])

    sources = [branch(edge, edge.source, False) for edge in before]
    targets = [branch(edge, edge.target, True) for edge in after]
    sources = sources or [branch(Edge(IDENTITY, layer.name), IDENTITY, False)]
    targets = targets or [branch(Edge(layer.name, IDENTITY), IDENTITY, True)]
    reach = _reach(layer, sources, targets)
    return Around(tuple(sources), tuple(targets), reach, _near(sources), _near(targets))


def correlations(
    layer: Layer, around: Around, kernels: Mapping[str, Part], masks: Mapping[str, jax.Array]
) -> dict[tuple[str, int], tuple[Correlate, tuple[Any, ...]]]:
    """Return, by side and place, what `correlated` is to be called with for each neighbour."""
    calls: dict[tuple[str, int], tuple[Correlate, tuple[Any, ...]]] = {}
    for place, (_, neighbour, gain, _) in enumerate(around.sources):
        if neighbour is not None:
            unit = around.near_in / near_largest(gain)
            how = _into(neighbour, _step(neighbour, layer), around.reach)
            calls["source", place] = how, (kernels[neighbour.name], masks.get(neighbour.name), unit)
    for place, (edge, neighbour, gain, _) in enumerate(around.targets):
        if neighbour is not None:
            how = _out_of(edge, neighbour, around.reach)
            unit = around.near_out / gain
            calls["target", place] = how, (kernels[neighbour.name], masks.get(neighbour.name), unit)
    return calls


def correlated(
    how: Correlate, part: Part, mask: jax.Array | None, unit: jax.Array
) -> jax.Array:  # fmt: skip
    """Return the autocorrelation of a kernel divided by ``unit``: ``[channels, lags]``.

    ``R_in`` per output channel, or ``R_out`` per input channel (with groups, of each group).
    """
    kernel = widen(read(how.layout, part))
    values = (kernel if mask is None else jnp.where(mask, kernel, 0)) / unit
    lags = _autocorrelation(values.reshape(how.window), how.over, how.step, how.reach)
    if how.over == -1:
        lags = lags.swapaxes(0, 1)
    return lags.reshape(-1, math.prod(2 * far + 1 for far in how.reach))


def pair_factors(
    groups: int, incoming: jax.Array, outgoing: jax.Array, gain: jax.Array,
    scale: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:  # fmt: skip
    """Return what the neighbours of a layer make of its weights: ``sqrt(M)``.

    Args:
      groups: feature groups of the layer.
      incoming, outgoing: from `both_sides`, ``[in, lags]`` and ``[out, lags]``.
      gain: of the layer's outputs, ``[out]`` or ``[1]``.
      scale: the powers of two that the sides were divided by. None leaves them out, and the power
        of two near the largest gain: the order within the layer stays the same to the bit, and the
        factors neither overflow nor underflow.

    Returns:
      ``[in / groups, out]``, float32 or wider.
    """
    squares = jnp.einsum(
        "gjd,gkd->jgk",
        incoming.reshape(groups, -1, incoming.shape[-1]),
        outgoing.reshape(groups, -1, outgoing.shape[-1]),
        precision=lax.Precision.HIGHEST,
    )
    # A sum of squares, which rounding can bring below zero.
    factors = jnp.sqrt(jnp.maximum(squares.reshape(-1, outgoing.shape[0]), 0))
    near = near_largest(gain)
    factors = factors * (gain / near)
    return factors if scale is None else factors * scale[0] * scale[1] * near


def both_sides(
    layer: Layer, around: Around, found: Mapping[tuple[str, int], jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Return ``a_prev**2 * R_in / near_in**2``, ``[in, lags]``, and ``R_out / near_out**2``.

    Several previous layers add up in ``R_in``, several next ones in ``R_out``; an identity branch
    is a one at lag zero.

    Args:
      layer: the layer to score.
      around: what surrounds it.
      found: of `correlated`, by side and place.
    """
    rows = []
    for place, (edge, neighbour, gain, _) in enumerate(around.sources):
        top = near_largest(gain)
        square = jnp.square(gain / top)[:, None]
        if neighbour is None:
            rows.append(square * _delta(layer.in_size, around.reach, around.near_in / top))
        else:
            lags = square * found["source", place]
            rows.append(edge.to_target(lags, layer.in_size)[0])
    incoming = sum(rows[1:], rows[0])
    rows = []
    for place, (edge, neighbour, gain, _) in enumerate(around.targets):
        if neighbour is None:
            rows.append(_delta(layer.out_size, around.reach, around.near_out / gain))
        else:
            once = replace(edge, positions=1)  # the positions of a flatten are in the lags
            rows.append(once.to_source(found["target", place], layer.out_size)[0])
    return incoming, sum(rows[1:], rows[0])


def _into(neighbour: Layer, step: int, reach: Sequence[int] | None) -> Correlate:
    """Return how ``R_in`` is found for what follows a layer; without ``reach``: all lags."""
    if reach is None:
        reach = [(size - 1) // step for size in neighbour.shape[:-2] or (1,)]
    window = neighbour.shape[:-2] or (1,) * len(reach)
    return Correlate(layout_of(neighbour), step, tuple(reach), (*window, *neighbour.shape[-2:]), -2)


def _out_of(edge: Edge, neighbour: Layer, reach: Sequence[int] | None) -> Correlate:
    """Return how ``R_out`` is found for what comes before a layer; without ``reach``: all lags."""
    if reach is None:
        reach = [size - 1 for size in _window(edge, neighbour, 2)]
    # For lag zero alone the map may have any shape.
    window = _window(edge, neighbour, len(reach)) if any(reach) else (-1, *(1,) * (len(reach) - 1))
    channels = (
        neighbour.shape[-2] // edge.positions,
        neighbour.groups,
        neighbour.out_size // neighbour.groups,
    )
    return Correlate(layout_of(neighbour), 1, tuple(reach), (*window, *channels), -1)


def in_lags(
    layer: Layer, kernel: jax.Array, mask: jax.Array | None = None,
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
    how = _into(layer, step, reach)
    found = correlated(how, Part(kernel), mask, jnp.asarray(near))
    return found.reshape(-1, *(2 * far + 1 for far in how.reach))


def out_lags(
    edge: Edge, layer: Layer, kernel: jax.Array, mask: jax.Array | None = None,
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
    how = _out_of(edge, layer, reach)
    found = correlated(how, Part(kernel), mask, jnp.asarray(near))
    return found.reshape(-1, *(2 * far + 1 for far in how.reach))


def _check(graph: Structure, edge: Edge) -> None:
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


def _window(edge: Edge, layer: Layer, axes: int) -> tuple[int, ...]:
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


def _step(source: Layer, layer: Layer) -> int:
    """Return how far apart neighbours in the map after ``layer`` lie in that before ``source``."""
    return source.strides * source.pool * layer.strides * layer.pool


def _reach(layer: Layer, sources: Sequence[Branch], targets: Sequence[Branch]) -> tuple[int, ...]:
    """Return the largest lag that both sides have, per axis (of at least one axis).

    Raises:
      PruningError: if the layers' windows differ in their number of axes.
    """
    around_it = [layer, *(branch.neighbour for branch in (*sources, *targets) if branch.neighbour)]
    convs = {
        len(neighbour.shape) - 2: neighbour.name for neighbour in around_it if neighbour.is_conv
    }
    if len(convs) > 1:
        raise PruningError(
            f"layers {' and '.join(map(repr, convs.values()))} have windows of "
            f"{' and '.join(map(str, convs))} axes: the exact form needs as many in both; "
            "use lags=False"
        )
    axes = max(convs, default=1)
    before = [0] * axes
    for edge, neighbour, *_ in sources:
        if neighbour and neighbour.is_conv and edge.positions == 1:
            sizes = zip(before, neighbour.shape[:-2], strict=True)
            before = [max(far, (size - 1) // _step(neighbour, layer)) for far, size in sizes]
    after = [0] * axes
    if any(before):
        for edge, neighbour, *_ in targets:
            if neighbour:
                sizes = zip(after, _window(edge, neighbour, axes), strict=True)
                after = [max(far, size - 1) for far, size in sizes]
    return tuple(map(min, before, after))


def _near(branches: Sequence[Branch]) -> jax.Array:
    """Return a power of two near the largest weight times gain of all branches."""
    peaks = [branch.peak * jnp.max(jnp.abs(branch.gain)) for branch in branches]
    return power_of_two(jnp.max(jnp.stack(peaks)))


def _delta(size: int, reach: Sequence[int], near: jax.Array) -> jax.Array:
    """Return the lags of identity, ``[size, lags]``, divided by ``near**2``."""
    count = math.prod(2 * far + 1 for far in reach)
    return jnp.zeros((size, count), near.dtype).at[:, count // 2].set(jnp.square(1 / near))


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

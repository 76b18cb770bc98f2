"""What a method reads of a network: its kernels' norms, their propagation, inputs of the scores."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding

from lap_jax.batching import Part, for_each, is_traced, on_host
from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import Layer
from lap_jax.graph.shortcuts import direct
from lap_jax.meshes import as_laid_out, everywhere, sharding_of
from lap_jax.methods import Method, draws, looks, score_of
from lap_jax.scoring import lags, scores
from lap_jax.scoring import on_host as host
from lap_jax.scoring.kernels import Layout, as_kernel, as_read, layout_of, read
from lap_jax.scoring.norms import near_largest
from lap_jax.scoring.propagation import Flow, Measured, Propagation, sides
from lap_jax.scoring.scores import Score, Sides

Masks = dict[str, jax.Array]
Flows = dict[str, Flow]
LARGEST_MASKED = 2**18
"""Entries of a kernel with a mask beyond which NumPy is not to make its norms: methods with an
order make them again and again, and NumPy takes ten times as long as a program does."""


class Network(NamedTuple):
    """What a method reads of a network.

    Attributes:
      graph, method: checked.
      kernels: by layer.
      gains: ``{layer or junction: [out]}``, what multiplies the outputs, where something does.
      measured: by layer.
      key: of random scores.
      tensors: by layer and name, what else the score takes.
    """

    graph: Graph
    method: Method
    kernels: Mapping[str, Part]
    gains: Mapping[str, jax.Array]
    measured: Mapping[str, Measured]
    key: jax.Array | None = None
    tensors: Mapping[str, Mapping[str, Part]] = {}


class Before(NamedTuple):
    """What a pass over the same network, with as many units to stay, leaves to the one after it.

    Attributes:
      candidates: the weights that took part.
      whole: masks of layers all of whose kept weights take part again.
      flows: norms of kernels as ``candidates`` left them.
      numbers: of ``whole`` and others, how many weights are kept between each two neurons.
    """

    candidates: Mapping[str, jax.Array] = {}
    whole: Mapping[str, jax.Array] = {}
    flows: Mapping[str, Flow] = {}
    numbers: Mapping[str, jax.Array] = {}


NOTHING = Before()


def tied_layers(graph: Graph) -> dict[str, list[Layer]]:
    """Return, by layer, the layers that hold the same weights, read another way."""
    tied: dict[str, list[Layer]] = {}
    for layer in graph.layers:
        if layer.tied_to:
            tied.setdefault(layer.tied_to, []).append(layer)
    return tied


def layout_over(network: Network, name: str) -> Sharding | None:
    """Return how a layer's kernel lies, where that can be said of the shape it is read in."""
    part, layer = network.kernels[name], network.graph[name]
    return None if layer.split else sharding_of(part.leaf, len(part.place))


def with_tied(network: Network, masks: Masks) -> Masks:
    """Return masks of layers, and of those that read the same weights another way."""
    tied = {
        other.name: ((layout_of(network.graph[name]), layout_of(other)), (masks[name],))
        for name, others in tied_layers(network.graph).items()
        for other in others
        if name in masks
    }
    return masks | for_each(_as_read, tied)


def _as_read(how: tuple[Layout, Layout], mask: jax.Array) -> jax.Array:
    return as_read(*how, mask)


# ---------------------------------------------------------------- norms, one program per shape


def peaks(
    network: Network, names: Sequence[str], masks: Masks | None = None
) -> dict[str, jax.Array]:
    """Return the largest ``|w|`` of layers, of the weights that masks leave."""
    calls = {
        name: (_how(network, name), (network.kernels[name], _of(masks, name))) for name in names
    }
    return for_each(_peak, calls, _peak_on_host)


def flows(
    network: Network, names: Sequence[str], tops: Mapping[str, jax.Array], masks: Masks | None
) -> dict[str, Flow]:
    """Return the norms of kernels by input and by output neuron; ``tops`` are their peaks."""
    calls = {
        name: (_how(network, name), (network.kernels[name], tops[name], _of(masks, name)))
        for name in names
    }
    return for_each(_flow, calls, _flow_on_host)


def propagation(network: Network, flows: dict[str, Flow], masks: Masks) -> Propagation:
    """Return what is known of a network whose kernels have these norms, under these masks."""

    def weigh(name: str, amplitudes: jax.Array, forward: bool) -> jax.Array:
        how = (*_how(network, name), forward)
        operands = (network.kernels[name], amplitudes, masks.get(name))
        return for_each(_weigh, {name: (how, operands)})[name]

    arrays = (flows, network.gains, network.measured)
    here = not is_traced(arrays) and on_host(arrays)
    return Propagation(network.graph, flows, network.gains, weigh, network.measured, {}, here)


_How = tuple[Layout, NamedSharding | None]


def _how(network: Network, name: str) -> _How:
    leaf = network.kernels[name].leaf
    return layout_of(network.graph[name]), everywhere(sharding_of(leaf))


def _of(masks: Masks | None, name: str) -> jax.Array | None:
    return None if masks is None else masks.get(name)


def _peak(how: _How, kernel: Part, mask: jax.Array | None) -> jax.Array:
    return as_laid_out(scores.peak(read(how[0], kernel), mask), how[1])


def _flow(how: _How, kernel: Part, top: jax.Array, mask: jax.Array | None) -> Flow:
    found = scores.flow(how[0].groups, read(how[0], kernel), top, mask)
    return as_laid_out(found, how[1])


def _peak_on_host(how: _How, kernel: np.ndarray, mask: np.ndarray | None) -> np.ndarray | None:
    return None if how[1] else host.peak(as_kernel(how[0], kernel), mask)


def _flow_on_host(
    how: _How, kernel: np.ndarray, top: np.ndarray, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray] | None:
    layout, sharding = how
    if sharding or (mask is not None and mask.size > LARGEST_MASKED):
        return None
    return host.flow(layout.groups, as_kernel(layout, kernel), top, mask)


def _weigh(
    how: tuple[Layout, NamedSharding | None, bool], kernel: Part, amplitudes: jax.Array,
    mask: jax.Array | None,
) -> jax.Array:  # fmt: skip
    layout, sharding, forward = how
    found = scores.weigh(layout, read(layout, kernel), amplitudes, forward, mask)
    return as_laid_out(found, sharding)


# ---------------------------------------------------------------- scores


class Rule(NamedTuple):
    """How a layer is scored: what layers of one program share.

    Attributes:
      score: the function.
      layouts: of the kernel, and of each other way in which its weights are read.
      lags: whether neighbours give a factor per pair of neurons.
      rescale: whether to leave powers of two out, which changes nothing within a layer.
    """

    score: Score
    layouts: tuple[Layout, ...]
    lags: bool
    rescale: bool


def inputs_of_scores(
    network: Network, layers: Sequence[Layer], known: Propagation | None, masks: Masks,
    rescale: bool,
) -> dict[str, tuple[Rule, tuple[Any, ...]]]:  # fmt: skip
    """Return what `staged` is to be called with for each layer.

    Args:
      network: with the method.
      layers: those to score; none that is tied to another.
      known: the norms; None for a method that does not look.
      masks: the weights that count, by layer; of a layer that is absent all do.
      rescale: whether scores are compared within a layer alone.
    """
    method, tied = network.method, tied_layers(network.graph)
    exact = _exact(network, layers, masks, rescale) if method.lags and looks(method) else {}
    found = {}
    for layer in layers:
        reads = (layer, *tied.get(layer.name, ()))
        own: tuple[Sides, ...] = (Sides(),) * len(reads)
        if known is not None and not method.lags:
            own = tuple(sides(known, read, method.direction, method.horizon) for read in reads)
        key = None
        if draws(method):
            key = (network.key, jnp.uint32(zlib.crc32(layer.path.encode())))
        rule = Rule(
            score_of(method), tuple(map(layout_of, reads)), layer.name in exact,
            rescale and len(reads) == 1 and isinstance(method.score, str),
        )  # fmt: skip
        others = network.tensors.get(layer.name, {})
        operands = (network.kernels[layer.name], own, exact.get(layer.name), key, others)
        found[layer.name] = rule, operands
    return found


def staged(
    rule: Rule, kernel: Part, own: tuple[Sides, ...], exact: tuple[Any, ...] | None,
    key: tuple[jax.Array, jax.Array] | None, tensors: Mapping[str, Part],
) -> tuple[Callable[..., jax.Array], tuple[Any, ...]]:  # fmt: skip
    """Return the scores of a layer as a function and its operands.

    Args:
      rule: how.
      kernel: the weights.
      own: for each read what the neighbours make of its neurons.
      exact: arguments of `lags.pair_factors`, without the groups.
      key: of random scores, and a number of the layer's own.
      tensors: what else the score takes, by name.
    """
    first, score = rule.layouts[0], rule.score
    weights = read(first, kernel)
    others = {name: scores.widen(read(first, part)) for name, part in tensors.items()}
    if exact is not None:
        factors = lags.pair_factors(first.groups, *exact)
        return lambda weights, factors: score(scores.widen(weights), factors, 1.0), (
            weights,
            factors,
        )
    if key is not None:  # drawn once, not in each pass
        others |= {"key": jax.random.fold_in(*key)}
        drawn = scores.read_by_all(score, rule.layouts, weights, own, others)
        return lambda drawn: drawn, (drawn,)
    if rule.rescale:
        own = tuple(Sides(*map(_rescaled, each)) for each in own)
    return (
        lambda weights, own, others: scores.read_by_all(score, rule.layouts, weights, own, others),
        (weights, own, others),
    )


def staged_on_host(
    rule: Rule, kernel: np.ndarray, own: tuple[Sides, ...], exact: Any, key: Any, tensors: Any
) -> np.ndarray | None:
    """Return what `staged` would compute, to the bit, in NumPy; None where that is not known."""
    if exact is not None or key is not None or tensors or len(own) > 1:
        return None
    layout = rule.layouts[0]
    if rule.score is scores.magnitude:
        return np.abs(host.widen(as_kernel(layout, kernel)))
    if rule.score is scores.lookahead and rule.rescale:
        sides = (None if side is None else np.asarray(side) for side in own[0])
        return host.lookahead(layout, as_kernel(layout, kernel), *sides)
    return None


def _rescaled(side: jax.Array | None) -> jax.Array | None:
    """Return a side divided by a power of two near its maximum.

    The order within the layer stays the same to the bit, and the scores neither overflow nor
    underflow.
    """
    return None if side is None else side / near_largest(side)


def _exact(
    network: Network, layers: Sequence[Layer], masks: Masks, rescale: bool
) -> dict[str, tuple[Any, ...]]:
    """Return, by layer, the arguments of `lags.pair_factors` after the groups."""
    graph = direct(network.graph)
    ends = dict.fromkeys(
        name
        for layer in layers
        for edge in (*graph.into(layer.name), *graph.out_of(layer.name))
        for name in (edge.source, edge.target)
        if name in network.kernels and name != layer.name
    )
    tops = peaks(network, list(ends), masks)
    around = {layer.name: lags.around(graph, layer, network.gains, tops) for layer in layers}
    calls = {
        (layer.name, *place): call
        for layer in layers
        for place, call in lags.correlations(
            layer, around[layer.name], network.kernels, masks
        ).items()
    }
    found = for_each(lags.correlated, calls)
    exact = {}
    for layer in layers:
        name, each = layer.name, around[layer.name]
        both = lags.both_sides(
            layer,
            each,
            {(side, place): value for (own, side, place), value in found.items() if own == name},
        )
        gain = scores.widen(network.gains.get(name, jnp.ones(1, jnp.float32)))
        exact[name] = (*both, gain, None if rescale else (each.near_in, each.near_out))
    return exact

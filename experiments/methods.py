"""The methods that a trial can name: the paper's, those of others that it is compared with, yours.

A score of your own is named as ``module:function``; see `lap_jax.Method` for what it is given.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

import lap_jax


def ria(kernel: jax.Array, input: jax.Array) -> jax.Array:
    """Return ``(|w| / sum of its row + |w| / sum of its column) * sqrt(input)``.

    Relative importance and activations (Zhang et al. 2024, "Plug-and-Play"). ``input`` is the
    measured norm of the activations. A row and a column of zeros give zero.
    """
    size = jnp.abs(kernel)
    window = tuple(range(kernel.ndim - 2))
    arriving = size.sum((*window, kernel.ndim - 2), keepdims=True)
    leaving = size.sum((*window, kernel.ndim - 1), keepdims=True)
    shares = [jnp.where(total > 0, size / total, 0) for total in (arriving, leaving)]
    return (shares[0] + shares[1]) * jnp.sqrt(input)


def dass(kernel: jax.Array, activations: jax.Array) -> jax.Array:
    """Return ``|w| * activations``, as `dass_activations` gives them (Guo et al. 2024, "DaSS")."""
    return jnp.abs(kernel) * activations


def given(kernel: jax.Array, scores: jax.Array) -> jax.Array:
    """Return the scores that were made before."""
    return scores


OWN: Mapping[str, lap_jax.Method] = {
    "Wanda": lap_jax.METHODS["LBP"],
    "RIA": lap_jax.Method(ria, direction="backward"),
    "DaSS": lap_jax.Method(dass),
}
"""Others' methods: each needs the norms of the activations that reach a layer.

Weights compete as the scope says, where Wanda's authors let those of an output compete, and DaSS's
those of an input.
"""

METHODS: Mapping[str, lap_jax.Method] = {
    **lap_jax.METHODS,
    **OWN,
    "LAP-once": lap_jax.Method(given),
}
"""By name.

"LAP-once" is LAP by the scores of the whole network, whichever candidates are left: where "LAP
effective" scores them anew in each round, "LAP-once effective" fills up what is wasted with the
next best weights.
"""


def measured_by(method: str) -> str:
    """Return the field of `lap_jax.Measured` that a method cannot do without; empty: none."""
    return "input" if method in OWN else ""


def method_named(name: str) -> lap_jax.Method:
    """Return a method by its name, or that of a score ``module:function``.

    Raises:
      ValueError: if there is none; the message names the nearest or says what is wrong.
    """
    if name in METHODS:
        return METHODS[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise ValueError(f"unknown method {name!r}")
    try:
        score = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} cannot be imported: {error}") from None
    return score if isinstance(score, lap_jax.Method) else lap_jax.Method(score)


def tensors_of(
    method: str, params: Any, graph: lap_jax.Graph,
    measured: Mapping[str, lap_jax.Measured] | None, batch_stats: Any | None = None,
) -> dict[str, Any] | None:  # fmt: skip
    """Return what else a method's score is given, for `lap_jax.lookahead_masks`."""
    if method == "LAP-once":
        scores = lap_jax.lookahead_scores(params, graph, batch_stats=batch_stats)
        return {"scores": _by_layer(params, graph, lambda layer, _: scores[layer.name])}
    if method != "DaSS" or measured is None:
        return None
    return {"activations": dass_activations(params, graph, measured)}


def dass_activations(
    params: Any, graph: lap_jax.Graph, measured: Mapping[str, lap_jax.Measured]
) -> Any:
    """Return what DaSS multiplies weights by, a tree of the parameters' shapes.

    Of a layer that widens the stream and that one other alone reads (``up`` and ``gate`` of a
    transformer's block): the square root of the norm of what that one reads, by output. Of every
    other layer the norm of what it reads itself, by input, which is Wanda's score; ones where that
    was not measured.
    """
    norms = {name: each.input for name, each in measured.items()}

    def of(layer: lap_jax.Layer, leaf: jax.Array) -> jax.Array:
        read, own = norms.get(_reader(graph, layer)), norms.get(layer.name)
        if read is not None:
            return jnp.broadcast_to(jnp.sqrt(read), leaf.shape)
        if own is None:
            return jnp.ones(leaf.shape, jnp.float32)
        if layer.groups > 1:
            own = own.reshape(layer.groups, -1).mean(0)  # a weight has one input of each group
        return jnp.broadcast_to(own[:, None], leaf.shape)

    return _by_layer(params, graph, of)


def _by_layer(
    params: Any, graph: lap_jax.Graph, of: Callable[[lap_jax.Layer, jax.Array], jax.Array]
) -> Any:
    """Return a tree of what a function gives of layers and their leaves; ones for other leaves."""
    layers = {layer.path: layer for layer in graph.layers}

    def given_of(path: Any, leaf: jax.Array) -> jax.Array:
        layer = layers.get(jax.tree_util.keystr(path, simple=True, separator="/"))
        return jnp.ones(leaf.shape, jnp.float32) if layer is None else of(layer, leaf)

    return jax.tree_util.tree_map_with_path(given_of, params)


def _reader(graph: lap_jax.Graph, layer: lap_jax.Layer) -> str:
    """Return the one layer that reads what a layer widens the stream to; empty: there is none."""
    edges = graph.out_of(layer.name)
    if layer.out_size <= layer.in_size or len(edges) != 1 or not edges[0].is_plain:
        return ""
    return edges[0].target

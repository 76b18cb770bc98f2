"""Small models that many tests of tracing share, and what a graph says of their channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import lap_jax


def kernels(*shapes: tuple[int, ...], seed: int = 0) -> dict[str, Any]:
    """Parameters a, b, c, ... of the given shapes."""
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return {
        name: {"kernel": jax.random.normal(key, shape)}
        for name, key, shape in zip("abcdefgh", keys, shapes, strict=False)
    }


def w(params: Any, name: str) -> jax.Array:
    return params[name]["kernel"]


def pairs(graph: lap_jax.Graph, source: str, target: str) -> set[tuple[int, int]]:
    """Channel pairs of the edges between two parts."""
    found = set()
    for edge in graph.into(target):
        if edge.source != source:
            continue
        if edge.pairs is not None:
            found |= {(int(a), int(b)) for a, b in edge.pairs.values}
            continue
        width = graph.parts[target].in_size // edge.positions
        for position in range(edge.positions):
            for channel in range(graph.parts[source].out_size):
                found.add((channel, position * width + edge.offset + channel))
    return found


def brought(graph: lap_jax.Graph, source: str, target: str) -> np.ndarray:
    """Which channel of a layer reaches which input of another, through junctions."""
    found = np.zeros((graph.parts[source].out_size, graph.parts[target].in_size), bool)
    for place in pairs(graph, source, target):
        found[place] = True
    for part in graph.junctions:
        direct = pairs(graph, source, part.name)
        if direct:
            step = np.zeros((graph.parts[source].out_size, part.size), bool)
            step[tuple(np.array(sorted(direct)).T)] = True
            found |= step @ brought(graph, part.name, target)
    return found


def residual(blocks: int) -> tuple[dict[str, Any], Any]:
    names = [f"{part}{block}" for block in range(blocks) for part in "ab"]
    keys = jax.random.split(jax.random.key(1), len(names) + 2)
    params = {
        name: {"kernel": jax.random.normal(key, (5, 5))}
        for name, key in zip([*names, "stem", "head"], keys, strict=True)
    }

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = x @ w(p, "stem")
        for block in range(blocks):
            h = h + jax.nn.relu(h @ w(p, f"a{block}")) @ w(p, f"b{block}")
        return h @ w(p, "head")

    return params, model


class Normed(nn.Module):
    """Norms before and behind layers."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(6, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, epsilon=1e-3)(x))
        x = nn.max_pool(x, (2, 2), (2, 2)).reshape(x.shape[0], -1)
        x = nn.Dense(6)(x)
        return nn.Dense(3)(nn.LayerNorm()(x + nn.Dense(6)(nn.RMSNorm()(x))))


def in_a_row(made: Callable[..., jax.Array], **shapes: tuple[int, ...]) -> lap_jax.Graph:
    """A layer before, one whose kernel is made of leaves, and one behind."""
    params = {name: jax.random.normal(jax.random.key(0), shape) for name, shape in shapes.items()}
    params |= {"first": jnp.ones((6, 5)), "last": jnp.ones((4, 2))}

    def model(p: Any, x: jax.Array) -> jax.Array:
        kernel = made(*(p[name] for name in shapes))
        return jax.nn.relu(jax.nn.relu(x @ p["first"]) @ kernel) @ p["last"]

    return lap_jax.trace(model, params, jnp.ones((3, 6)))

"""Reductions, windows and what goes along an axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax

import lap_jax
from tests.tracing.small import kernels, pairs, w

# What keeps four channels of ``[batch, height, width, channels]`` apart, and what they are scaled
# by: a sum of n elements counts with the root of n, another function with one.
KEPT: dict[str, tuple[Callable[[jax.Array], jax.Array], float]] = {
    "sum": (lambda h: h.sum((1, 2)), 4.0),
    "mean": (lambda h: h.mean((1, 2)), 0.25),
    "max": (lambda h: h.max((1, 2)), 1.0),
    "average pool": (lambda h: nn.avg_pool(h, (2, 2), (2, 2)), 0.5),
    "max pool": (lambda h: nn.max_pool(h, (2, 2), (2, 2)), 1.0),
    "cumulative": (lambda h: jnp.cumsum(h, 1), 1.0),
    "sorted": (lambda h: jnp.sort(h, 1), 1.0),
}


@pytest.mark.parametrize("case", KEPT)
def test_channels_are_kept_apart_along_other_axes(case: str) -> None:
    change, scale = KEPT[case]
    params = kernels((2, 4), (4, 3), (2, 3))

    def model(p: Any, x: jax.Array) -> jax.Array:
        # A second reader, without which an edge has no scale.
        h = x @ w(p, "a")
        return change(h) @ w(p, "b") + (h[:, :1, :1] @ w(p, "b")).sum()

    graph = lap_jax.trace(model, params, jnp.ones((2, 4, 4, 2)))
    assert graph.barriers == ()
    assert pairs(graph, "a", "b") == {(i, i) for i in range(4)}
    assert sorted(edge.scale for edge in graph.into("b")) in ([scale], sorted([scale, 1.0]))


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h * h.sum(-1, keepdims=True).mean() ** 0,
        lambda h: lax.reduce_window(h, 0.0, lax.add, (1, 1, 1, 2), (1, 1, 1, 1), "SAME"),
        lambda h: jnp.cumsum(h, -1),
        lambda h: jnp.sort(h, -1),
    ],
    ids=["nothing", "window", "cumulative", "sorted"],
)
def test_along_the_channels_they_are_lost(change: Any) -> None:
    params = kernels((2, 4), (4, 3))
    graph = lap_jax.trace(
        lambda p, x: change(x @ w(p, "a")) @ w(p, "b"), params, jnp.ones((2, 4, 4, 2))
    )
    assert all(
        barrier.before == ("a",) and "it mixes the channels" in barrier.why
        for barrier in graph.barriers
    )
    assert bool(graph.barriers) == (graph.into("b") == ())

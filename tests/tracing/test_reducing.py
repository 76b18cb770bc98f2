"""Reductions, windows and what goes along an axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lap_jax
from tests.tracing.small import brought, kernels, pairs, w

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
    "largest": (lambda h: lax.top_k(h.swapaxes(1, 3), 2)[0].swapaxes(1, 3), 1.0),
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
        lambda h: lax.top_k(h, 4)[0],
    ],
    ids=["nothing", "window", "cumulative", "sorted", "largest"],
)
def test_along_the_channels_they_are_lost(change: Any) -> None:
    params = kernels((2, 4), (4, 3))
    graph = lap_jax.trace(
        lambda p, x: change(x @ w(p, "a")) @ w(p, "b"), params, jnp.ones((2, 4, 4, 2))
    )
    assert all(
        barrier.before == ("a",) and barrier.why.startswith(("it mixes", "it takes channels"))
        for barrier in graph.barriers
    )
    assert bool(graph.barriers) == (graph.into("b") == ())


def norm(h: jax.Array) -> jax.Array:
    h = h - h.mean(-1, keepdims=True)
    return h / jnp.sqrt(jnp.square(h).mean(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("normed", [False, True])
def test_a_mean_over_positions_that_have_channels_is_their_sum(normed: bool) -> None:
    """As in an MLP-Mixer, whose norms take means, too."""
    params = kernels((3, 4), (5, 6), (6, 5), (4, 2), (4, 4))
    some = norm if normed else lambda h: h

    def mean(p: Any, x: jax.Array) -> jax.Array:
        h = x @ w(p, "a")
        mixed = jax.nn.relu(some(h).swapaxes(1, 2) @ w(p, "b")) @ w(p, "c")
        h = h + mixed.swapaxes(1, 2)
        return some(h + some(h) @ w(p, "e")).mean(1)

    graph = lap_jax.trace(lambda p, x: mean(p, x) @ w(p, "d"), params, jnp.ones((2, 5, 3)))
    assert graph.barriers == ()
    assert pairs(graph, "sum 0", "e") == {(4 * t + c, c) for t in range(5) for c in range(4)}
    np.testing.assert_array_equal(brought(graph, "a", "d"), np.eye(4, dtype=bool))
    np.testing.assert_array_equal(brought(graph, "e", "d"), np.eye(4, dtype=bool))
    assert brought(graph, "c", "d").all()


def test_a_statistic_that_reaches_a_layer_alone_is_a_sum() -> None:
    params = kernels((3, 4), (1, 2))
    graph = lap_jax.trace(
        lambda p, x: (x @ w(p, "a")).mean(-1, keepdims=True) @ w(p, "b"), params, jnp.ones((2, 3))
    )
    assert graph.barriers == ()
    assert brought(graph, "a", "b").all()
    kernel, head = (np.asarray(w(params, name)) for name in "ab")
    wanted = np.abs(kernel) * np.sqrt((head**2).sum()) / 4
    scores = np.asarray(lap_jax.lookahead_scores(params, graph)["a"])
    np.testing.assert_allclose(scores / scores.max(), wanted / wanted.max(), rtol=1e-5)

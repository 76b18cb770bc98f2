"""Sums, gates and functions of activations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lap_jax
from tests.tracing.small import kernels, pairs, w


def test_gates_multiply() -> None:
    params = kernels((4, 6), (4, 6), (6, 3))

    def model(p: Any, x: jax.Array) -> jax.Array:
        return (jax.nn.silu(x @ w(p, "a")) * (x @ w(p, "b"))) @ w(p, "c")

    graph = lap_jax.trace(model, params, jnp.ones((2, 4)))
    found = lap_jax.lookahead_scores(params, graph)
    a, b, c = (np.asarray(w(params, name)) for name in "abc")
    norm = np.linalg.norm
    np.testing.assert_allclose(found["a"], abs(a) * norm(b, axis=0) * norm(c, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["b"], abs(b) * norm(a, axis=0) * norm(c, axis=1), rtol=1e-5)
    np.testing.assert_allclose(
        found["c"], abs(c) * (norm(a, axis=0) * norm(b, axis=0))[:, None], rtol=1e-5
    )


def test_statistics_of_a_layer_itself_are_no_barrier() -> None:
    params = kernels((5, 4), (4, 2))

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = x @ w(p, "a")
        h = (h - h.mean(1, keepdims=True)) / jnp.sqrt(h.var(1, keepdims=True) + 1e-6)
        return jax.nn.softmax(h) @ w(p, "b")

    graph = lap_jax.trace(model, params, jnp.ones((3, 5)))
    assert graph.barriers == ()
    assert pairs(graph, "a", "b") == {(i, i) for i in range(4)}


def test_a_barrier_for_the_compiler_is_none_for_channels() -> None:
    params = kernels((5, 4), (5, 4), (4, 2))

    def model(p: Any, x: jax.Array) -> jax.Array:
        a, b = lax.optimization_barrier((x @ w(p, "a"), x @ w(p, "b")))
        return (a - jax.nn.relu(b)) @ w(p, "c")

    graph = lap_jax.trace(model, params, jnp.ones((2, 5)))
    assert graph.barriers == ()
    (edge,) = graph.into("c")
    for name in "ab":
        assert pairs(graph, name, edge.source) == {(i, i) for i in range(4)}


def test_constants_that_multiply_are_the_scale_of_an_edge() -> None:
    params = kernels((5, 4), (5, 4), (4, 2))
    factor = np.array([3.0, 1.0, 3.0, 1.0])

    def model(p: Any, x: jax.Array) -> jax.Array:
        return ((x @ w(p, "a")) * factor - (x @ w(p, "b")) / 4) @ w(p, "c")

    graph = lap_jax.trace(model, params, jnp.ones((2, 5)))
    (end,) = graph.into("c")
    scales = {edge.source: edge.scale for edge in graph.into(end.source)}
    assert scales == {"a": pytest.approx(5**0.5), "b": pytest.approx(0.25)}


def test_a_factor_that_is_no_product_of_powers_is_told() -> None:
    params = {**kernels((5, 4), (4, 2)), "c": {"scale": jnp.ones(4)}}
    graph = lap_jax.trace(
        lambda p, x: (x @ w(p, "a")) * jnp.exp(p["c"]["scale"]) @ w(p, "b"),
        params,
        jnp.ones((2, 5)),
    )
    (barrier,) = graph.barriers
    assert barrier.before == ("a",)
    assert "not a product of powers" in barrier.why
    assert pairs(graph, "a", "b") == {(i, i) for i in range(4)}

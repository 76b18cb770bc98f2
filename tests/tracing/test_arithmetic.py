"""Sums, gates and functions of activations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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

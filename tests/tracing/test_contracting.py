"""Kernels of any layout, and activations that are multiplied with each other."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lap_jax
from tests.tracing.small import kernels, pairs, w


def attention(p: Any, x: jax.Array, rotary: bool) -> jax.Array:
    """Two query heads of four channels to one head of keys and values."""
    batch, time, _ = x.shape
    q = (x @ w(p, "a")).reshape(batch, time, 2, 4)
    k, v = (jnp.repeat((x @ w(p, name))[:, :, None], 2, 2) for name in "bc")
    if rotary:
        angle = jnp.arange(time)[:, None] * jnp.array([1.0, 0.7])
        cos, sin = (part[None, :, None] for part in (jnp.cos(angle), jnp.sin(angle)))

        def turned(h: jax.Array) -> jax.Array:
            left, right = jnp.split(h, 2, -1)
            return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], -1)

        q, k = turned(q), turned(k)
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, time, 8) @ w(p, "d")


@pytest.mark.parametrize("rotary", [False, True])
def test_attention_is_its_circuits(rotary: bool) -> None:
    params = kernels((6, 8), (6, 4), (6, 4), (8, 6))
    graph = lap_jax.trace(lambda p, x: attention(p, x, rotary), params, jnp.ones((1, 500, 6)))
    assert graph.barriers == ()
    found = lap_jax.lookahead_scores(params, graph)
    q, k, v, o = (np.asarray(w(params, name), np.float64) for name in "abcd")
    keys, queries = (k**2).sum(0), (q**2).sum(0).reshape(2, 4).sum(0)
    if rotary:  # a pair of channels turns by uniform angles: each has the mean of both
        keys, queries = ((e + np.roll(e, 2)) / 2 for e in (keys, queries))
    outs = (o**2).sum(1).reshape(2, 4).sum(0)

    def ratio(found: Any, expected: np.ndarray) -> np.ndarray:
        ratios: np.ndarray = np.asarray(found, np.float64) / expected
        return ratios / ratios.mean()

    near = 0.02 if rotary else 1e-5  # angles of 500 positions are not quite uniform
    np.testing.assert_allclose(ratio(found["a"], abs(q) * np.sqrt(np.tile(keys, 2))), 1, atol=near)
    np.testing.assert_allclose(ratio(found["b"], abs(k) * np.sqrt(queries)), 1, atol=near)
    np.testing.assert_allclose(found["c"], abs(v) * np.sqrt(outs), rtol=1e-5)
    values = np.tile(np.sqrt((v**2).sum(0)), 2)
    np.testing.assert_allclose(found["d"], abs(o) * values[:, None], rtol=1e-5)


def test_experts_are_groups() -> None:
    params = kernels((3, 4, 5), (3, 5, 2))

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = jnp.einsum("etd,edf->etf", x, w(p, "a"))
        return jnp.einsum("etf,efo->eto", h, w(p, "b")).sum(0)

    graph = lap_jax.trace(model, params, jnp.ones((3, 7, 4)))
    assert graph["a"].groups == 3
    assert pairs(graph, "a", "b") == {(i, i) for i in range(15)}
    found = lap_jax.lookahead_masks(params, graph, 0.5)
    one = np.asarray(abs(w(params, "a")) * jnp.linalg.norm(w(params, "b"), axis=2)[:, None])
    kept = np.sort(one.ravel())[-30:]
    np.testing.assert_array_equal(w(found, "a"), one >= kept[0])

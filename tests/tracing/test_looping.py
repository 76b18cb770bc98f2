"""Loops over layers, over time, and branches."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lap_jax
from tests.tracing.small import kernels, pairs, w


def test_stacked_layers_are_a_layer_each() -> None:
    params = kernels((4, 4), (3, 4, 4), (4, 2))

    def loop(p: Any, x: jax.Array) -> jax.Array:
        h = x @ w(p, "a")
        h, _ = lax.scan(jax.checkpoint(lambda h, k: (jax.nn.relu(h @ k), None)), h, w(p, "b"))
        return h @ w(p, "c")

    graph = lap_jax.trace(loop, params, jnp.ones((2, 4)))
    assert graph.names == ("a", "b[0]", "b[1]", "b[2]", "c")
    masks = lap_jax.lookahead_masks(params, graph, 0.5, method="LAP-backward-seq")
    flat = kernels((4, 4), (4, 4), (4, 4), (4, 4), (4, 2))
    for name, value in zip("abcde", [w(params, "a"), *w(params, "b"), w(params, "c")], strict=True):
        flat[name]["kernel"] = value
    plain = lap_jax.lookahead_masks(flat, list("abcde"), 0.5, method="LAP-backward-seq")
    np.testing.assert_array_equal(
        masks["b"]["kernel"], jnp.stack([plain[name]["kernel"] for name in "bcd"])
    )
    np.testing.assert_array_equal(masks["c"]["kernel"], plain["e"]["kernel"])
    again = lap_jax.lookahead_masks(params, graph, 0.75, masks=masks)
    assert not (again["b"]["kernel"] & ~masks["b"]["kernel"]).any()


def test_loops_over_time_are_barriers() -> None:
    params = kernels((5, 4), (4, 4), (4, 2))

    def model(p: Any, x: jax.Array) -> jax.Array:
        def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
            return jnp.tanh(x @ w(p, "a") + h @ w(p, "b")), None

        return lax.scan(step, jnp.zeros((2, 4)), x)[0] @ w(p, "c")

    graph = lap_jax.trace(model, params, jnp.ones((7, 2, 5)))
    (barrier,) = graph.barriers
    assert barrier.primitive == "scan"
    assert set(barrier.before) == {"a", "b"}
    assert "b" in barrier.after


@pytest.mark.parametrize("reverse", [False, True])
def test_what_layers_of_a_loop_give_at_each_step_is_put_together(reverse: bool) -> None:
    params = kernels((5, 4), (3, 4, 4), (4, 2))

    def model(p: Any, x: jax.Array) -> jax.Array:
        def step(h: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
            return h @ kernel, h

        _, seen = lax.scan(step, x @ w(p, "a"), w(p, "b"), reverse=reverse)
        return seen[0] @ w(p, "c")

    graph = lap_jax.trace(model, params, jnp.ones((2, 5)))
    steps = ["b[2]", "b[1]", "b[0]"] if reverse else ["b[0]", "b[1]", "b[2]"]
    assert list(graph.names) == ["a", *steps, "c"]
    assert {edge.source for edge in graph.into("c")} == {"b[1]" if reverse else "a"}


def test_branches_are_one_or_the_other() -> None:
    params = kernels((5, 4), (5, 4), (4, 2))

    def model(p: Any, x: jax.Array, at: Any) -> jax.Array:
        parts = [lambda x, name=name: x @ w(p, name) for name in "ab"]
        return lax.switch(at(x), parts, x) @ w(p, "c")

    graph = lap_jax.trace(model, params, jnp.ones((2, 5)), at=lambda x: (x[0, 0] > 0).astype(int))
    (edge,) = graph.into("c")
    for name in "ab":
        assert pairs(graph, name, edge.source) == {(i, i) for i in range(4)}
    graph = lap_jax.trace(model, params, jnp.ones((2, 5)), at=lambda x: jnp.int32(1))
    assert graph.barriers == ()
    assert {edge.source for edge in graph.into("c")} == {"b"}


def test_a_loop_that_counts_through_layers_is_a_layer_each() -> None:
    params = kernels((4, 4), (3, 4, 4), (4, 2))

    def counted(p: Any, x: jax.Array) -> jax.Array:
        def step(i: Any, h: jax.Array) -> jax.Array:
            return jax.nn.relu(h @ w(p, "b")[i])

        return lax.fori_loop(0, 3, step, x @ w(p, "a")) @ w(p, "c")

    def scanned(p: Any, x: jax.Array) -> jax.Array:
        h, _ = lax.scan(lambda h, k: (jax.nn.relu(h @ k), None), x @ w(p, "a"), w(p, "b"))
        return h @ w(p, "c")

    x = jax.random.normal(jax.random.key(1), (2, 4))
    graph = lap_jax.trace(counted, params, x)
    assert graph == lap_jax.trace(scanned, params, x)
    found, wanted = (lap_jax.measure(model, params, x, graph=graph) for model in (counted, scanned))
    for name in graph.names:
        chex.assert_trees_all_close(found[name].input, wanted[name].input, rtol=1e-6)

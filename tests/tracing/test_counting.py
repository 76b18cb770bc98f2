"""Loops whose steps numbers tell, beside the same written as scans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lap_jax
from lap_jax.tracing.counting import MOST_STEPS, steps
from tests.tracing.small import kernels, pairs, w

X = jax.random.normal(jax.random.key(1), (2, 4))


def looped(
    start: int, goes_on: Callable[[Any], Any], after: Callable[[Any], Any], at: Any = lambda i: i
) -> Callable[[Any, jax.Array], jax.Array]:
    """A model of three stacked layers, which a handwritten loop counts through."""

    def model(p: Any, x: jax.Array) -> jax.Array:
        def body(state: Any) -> Any:
            i, h = state
            return after(i), jax.nn.relu(h @ w(p, "b")[at(i)])

        _, h = lax.while_loop(lambda state: goes_on(state[0]), body, (start, x @ w(p, "a")))
        return h @ w(p, "c")

    return model


def for_loop(p: Any, x: jax.Array) -> jax.Array:
    """Bounds that are traced lower to a loop with the bound among what it carries."""

    @jax.jit
    def run(count: Any, h: jax.Array) -> jax.Array:
        return lax.fori_loop(0, count, lambda i, h: jax.nn.relu(h @ w(p, "b")[i]), h)

    return run(3, x @ w(p, "a")) @ w(p, "c")


LOOPS: dict[str, Callable[[Any, jax.Array], jax.Array]] = {
    "counts up": looped(0, lambda i: i < 3, lambda i: i + 1),
    "counts by two": looped(2, lambda i: i <= 6, lambda i: i + 2, lambda i: i // 2 - 1),
    "counts down": looped(3, lambda i: jnp.logical_not(i == 0), lambda i: i - 1, lambda i: 3 - i),
    "fori_loop": for_loop,
}


@pytest.mark.parametrize("case", LOOPS)
def test_a_loop_that_numbers_count_is_the_scan_of_as_many_steps(case: str) -> None:
    params = kernels((4, 4), (3, 4, 4), (4, 2))

    def scanned(p: Any, x: jax.Array) -> jax.Array:
        h, _ = lax.scan(lambda h, k: (jax.nn.relu(h @ k), None), x @ w(p, "a"), w(p, "b"))
        return h @ w(p, "c")

    model = LOOPS[case]
    np.testing.assert_allclose(model(params, X), scanned(params, X), rtol=1e-6)
    assert "while" in str(jax.make_jaxpr(model)(params, X))
    graph = lap_jax.trace(model, params, X)
    assert graph == lap_jax.trace(scanned, params, X)
    assert (graph.barriers, graph.unread) == ((), ())
    if case != "fori_loop":
        return
    found, wanted = (lap_jax.measure(each, params, X, graph=graph) for each in (model, scanned))
    for name in graph.names:
        chex.assert_trees_all_close(found[name].input, wanted[name].input, rtol=1e-6)


def test_the_same_layer_again_and_again_is_a_barrier_of_what_is_carried() -> None:
    params = kernels((4, 4), (4, 4), (4, 2))

    def again(p: Any, x: jax.Array) -> jax.Array:
        def body(state: Any) -> Any:
            return state[0] + 1, jnp.tanh(state[1] @ w(p, "b"))

        return lax.while_loop(lambda state: state[0] < 3, body, (0, x @ w(p, "a")))[1] @ w(p, "c")

    graph = lap_jax.trace(again, params, X)
    assert graph.names == ("a", "b", "c")
    assert pairs(graph, "b", "c") == {(i, i) for i in range(4)}
    (barrier,) = graph.barriers
    assert "b" in barrier.before
    assert "b" in barrier.after
    lap_jax.measure(again, params, X, graph=graph)


def test_a_loop_that_data_end_is_a_barrier() -> None:
    params = kernels((4, 4), (3, 4, 4), (4, 2))

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = x @ w(p, "a")

        def goes_on(state: Any) -> Any:
            return (state[0] < 3) & (state[1].sum() > 0)

        def body(state: Any) -> Any:
            return state[0] + 1, jax.nn.relu(state[1] @ w(p, "b")[state[0]])

        return lax.while_loop(goes_on, body, (0, h))[1] @ w(p, "c")

    graph = lap_jax.trace(model, params, X)
    assert graph.names == ("a", "c")
    (unread,) = graph.unread
    assert unread.path == "b/kernel"
    assert any(barrier.primitive == "while" for barrier in graph.barriers)


@pytest.mark.parametrize(("count", "wanted"), [(0, 0), (7, 7), (MOST_STEPS + 1, None)])
def test_steps_are_counted_up_to_a_number(count: int, wanted: int | None) -> None:
    def run(x: jax.Array) -> jax.Array:
        return lax.while_loop(lambda s: s[0] < count, lambda s: (s[0] + 1, 2 * s[1]), (0, x))[1]

    (eqn,) = jax.make_jaxpr(run)(X).jaxpr.eqns
    assert steps(eqn, [0, None]) == wanted
    assert steps(eqn, [None, None]) is None

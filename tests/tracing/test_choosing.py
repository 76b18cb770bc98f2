"""Rows of tables and kernels that data choose, beside what perturbations of the models show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lap_jax
from tests.tracing.small import brought, kernels, pairs, w


def test_a_row_of_a_table_by_one_index_is_an_embedding() -> None:
    params = kernels((7, 4), (4, 2))

    def one(p: Any, token: jax.Array) -> jax.Array:
        return jnp.tanh(w(p, "a")[token]) @ w(p, "b")

    def many(p: Any, tokens: jax.Array) -> jax.Array:
        return jax.vmap(lambda token: one(p, token))(tokens)

    def taken(p: Any, tokens: jax.Array) -> jax.Array:
        return jnp.tanh(jnp.take(w(p, "a"), tokens, 0)) @ w(p, "b")

    tokens = jnp.zeros(5, int)
    wanted = lap_jax.trace(taken, params, tokens)
    assert (wanted["a"].in_size, wanted["a"].out_size, wanted.into("a")) == (7, 4, ())
    assert lap_jax.trace(one, params, tokens[0]) == wanted
    assert lap_jax.trace(many, params, tokens) == wanted


# ---------------------------------------------------------------- one of several kernels


def each_its_own(one: Callable[[Any, jax.Array], jax.Array]) -> Callable[[Any, jax.Array], Any]:
    return lambda p, x: jax.vmap(lambda x: one(p, x))(x)


def best(p: Any, x: jax.Array) -> jax.Array:
    return jnp.argmax(x @ w(p, "router"), -1)


def weighed(p: Any, x: jax.Array) -> jax.Array:
    """The best two of the experts."""
    weights, chosen = lax.top_k(jax.nn.softmax(x @ w(p, "router")), 2)
    made = jnp.einsum("bi,bkio->bko", x @ w(p, "a"), w(p, "b")[chosen])
    return jnp.einsum("bk,bko->bo", weights, made)


EXPERTS: dict[str, Callable[[Any, jax.Array], jax.Array]] = {
    "by index": lambda p, x: jnp.einsum("bi,bio->bo", x @ w(p, "a"), w(p, "b")[best(p, x)]),
    "taken": lambda p, x: jnp.einsum(
        "bi,bio->bo", x @ w(p, "a"), jnp.take(w(p, "b"), best(p, x), 0)
    ),
    "turned and cast": lambda p, x: jnp.einsum(
        "bi,boi->bo", x @ w(p, "a"), w(p, "b").astype(jnp.bfloat16)[best(p, x)].swapaxes(1, 2)
    ),
    "one example each": each_its_own(lambda p, x: (x @ w(p, "a")) @ w(p, "b")[best(p, x)]),
    "a slice": each_its_own(
        lambda p, x: (x @ w(p, "a")) @ lax.dynamic_index_in_dim(w(p, "b"), best(p, x), 0, False)
    ),
    "the best two": weighed,
}


@pytest.mark.parametrize("case", EXPERTS)
def test_experts_by_index_are_neighbours_of_all_around_them(case: str) -> None:
    a, b, c, router = kernels((5, 4), (3, 4, 6), (6, 2), (5, 3)).values()
    params = {"a": a, "b": b, "c": c, "router": router}
    experts, x = EXPERTS[case], jax.random.normal(jax.random.key(1), (12, 5))
    graph = lap_jax.trace(lambda p, x: experts(p, x) @ w(p, "c"), params, x)
    assert set(graph.names) == {"a", "router", "b[0]", "b[1]", "b[2]", "c"}
    assert graph.unread == ()
    (barrier,) = graph.barriers  # the router: it says which, and is no neighbour
    assert barrier.before == ("router",)
    assert {"b[0]", "b[1]", "b[2]"} <= set(barrier.after)

    def behind(kernel: jax.Array) -> jax.Array:
        return experts(params | {"b": {"kernel": kernel}}, x)

    slopes = np.abs(jax.jacobian(behind)(w(params, "b"))).sum((0, 3))  # [read, expert, made]
    for expert in range(3):
        wanted = slopes[:, expert].T > 0
        np.testing.assert_array_equal(brought(graph, f"b[{expert}]", "c"), wanted)
        assert pairs(graph, "a", f"b[{expert}]") == {(i, i) for i in range(4)}
    scores = lap_jax.lookahead_scores(params, graph)
    before, after = (np.linalg.norm(w(params, name), axis=i) for name, i in (("a", 0), ("c", 1)))
    wanted = np.abs(w(params, "b")) * before[:, None] * after
    for expert in range(3):
        np.testing.assert_allclose(scores[f"b[{expert}]"], wanted[expert], rtol=1e-5)
    lap_jax.measure(lambda p, x: experts(p, x) @ w(p, "c"), params, x, graph=graph)


def second(p: Any, x: jax.Array) -> jax.Array:
    return jnp.argmax(x @ w(p, "second"), -1)


TWICE: dict[str, Callable[[Any, jax.Array], jax.Array]] = {
    "one and another": lambda p, x: w(p, "b")[second(p, x)][best(p, x)],
    "both at once": lambda p, x: w(p, "b")[second(p, x), best(p, x)],
    "the later axis first": lambda p, x: w(p, "b")[:, best(p, x)][second(p, x)],
    "taken": lambda p, x: jnp.take(jnp.take(w(p, "b"), second(p, x), 0), best(p, x), 0),
}


@pytest.mark.parametrize("vmapped", [False, True])
@pytest.mark.parametrize("case", TWICE)
def test_of_a_choice_within_a_choice_each_kernel_is_a_layer(case: str, vmapped: bool) -> None:
    a, b, c, router, other = kernels((5, 4), (2, 3, 4, 6), (6, 2), (5, 3), (5, 2)).values()
    params = {"a": a, "b": b, "c": c, "router": router, "second": other}

    def one(p: Any, x: jax.Array) -> jax.Array:
        return (x @ w(p, "a")) @ TWICE[case](p, x) @ w(p, "c")

    model = each_its_own(one) if vmapped else one
    graph = lap_jax.trace(model, params, jnp.ones((7, 5) if vmapped else 5))
    experts = {f"b[{i}][{j}]" for i in range(2) for j in range(3)}
    assert set(graph.names) == {"a", "router", "second", "c", *experts}
    assert graph.unread == ()
    assert {stop.primitive for stop in graph.barriers} == {"argmax"}
    for expert in experts:
        assert pairs(graph, "a", expert) == {(i, i) for i in range(4)}
        np.testing.assert_array_equal(brought(graph, expert, "c"), np.eye(6, dtype=bool))


ACROSS: dict[str, Callable[[Any, jax.Array], jax.Array]] = {
    "by index": lambda p, x: w(p, "b")[:, best(p, x)],
    "taken": lambda p, x: jnp.take(w(p, "b"), best(p, x), axis=1),
    "a slice": lambda p, x: lax.dynamic_index_in_dim(w(p, "b"), best(p, x), 1, keepdims=False),
}


@pytest.mark.parametrize("vmapped", [False, True])
@pytest.mark.parametrize("case", ACROSS)
def test_experts_that_are_no_parts_of_a_parameter_are_a_barrier_that_says_so(
    case: str, vmapped: bool
) -> None:
    a, b, c, router = kernels((5, 4), (4, 3, 6), (6, 2), (5, 3)).values()
    params = {"a": a, "b": b, "c": c, "router": router}

    def one(p: Any, x: jax.Array) -> jax.Array:
        return (x @ w(p, "a")) @ ACROSS[case](p, x) @ w(p, "c")

    model = each_its_own(one) if vmapped else one
    graph = lap_jax.trace(model, params, jnp.ones((7, 5) if vmapped else 5))
    assert set(graph.names) == {"a", "router", "c"}
    (unread,) = graph.unread
    assert unread.path == "b/kernel"
    assert "do not lie along the first axes" in unread.why
    assert any(unread.why == barrier.why for barrier in graph.barriers)
    assert any("a" in barrier.before for barrier in graph.barriers)
    assert any("c" in barrier.after for barrier in graph.barriers)


def test_convolutions_that_the_data_choose_are_neighbours() -> None:
    params = kernels((3, 3, 2, 4), (3, 1, 1, 4, 5), (5, 2))
    dims = ("NHWC", "HWIO", "NHWC")

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = lax.conv_general_dilated(x, w(p, "a"), (1, 1), "SAME", dimension_numbers=dims)
        chosen = w(p, "b")[jnp.argmax(h[0, 0, 0, :3])]
        h = lax.conv_general_dilated(h, chosen, (1, 1), "SAME", dimension_numbers=dims)
        return h.mean((1, 2)) @ w(p, "c")

    graph = lap_jax.trace(model, params, jnp.ones((1, 4, 4, 2)))
    assert graph.unread == ()
    for expert in range(3):
        assert pairs(graph, "a", f"b[{expert}]") == {(i, i) for i in range(4)}
        np.testing.assert_array_equal(brought(graph, f"b[{expert}]", "c"), np.eye(5, dtype=bool))


def test_what_is_chosen_and_is_no_kernel_is_listed() -> None:
    params = kernels((5, 4), (3, 4, 4), (4, 2))

    def scaled(p: Any, x: jax.Array) -> jax.Array:
        h = x @ w(p, "a")
        chosen = w(p, "b")[jnp.argmax(h[:, :3], -1)]
        return jnp.einsum("bi,bio->bo", h, chosen * h[:, None]) @ w(p, "c")

    def chosen_again(p: Any, x: jax.Array) -> jax.Array:
        h = x @ w(p, "a")
        chosen = w(p, "b").reshape(3, 2, 2, 4)[jnp.argmax(h[0, :3])][jnp.argmax(h[0, :2])]
        return h[:, :2] @ chosen @ w(p, "c")

    for model in (scaled, chosen_again):
        graph = lap_jax.trace(model, params, jnp.ones((2, 5)))
        assert graph.names == ("a", "c")
        (unread,) = graph.unread
        assert (unread.path, unread.why) == ("b/kernel", "the data choose one of several kernels")
        assert any("c" in barrier.after for barrier in graph.barriers)
        assert any("a" in barrier.before for barrier in graph.barriers)

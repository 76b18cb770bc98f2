"""Kernels that are made of several leaves: joined, summed, and multiplied."""

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
from tests.tracing.small import in_a_row, kernels, pairs, w

X = jnp.ones((3, 5))


def edges(graph: lap_jax.Graph) -> set[tuple[str, str, tuple[int, int]]]:
    parts = list(graph.parts)
    return {(one, two, pair) for one in parts for two in parts for pair in pairs(graph, one, two)}


JOINED: dict[str, tuple[Callable[..., jax.Array], dict[str, tuple[int, ...]]]] = {
    "outputs": (lambda a, b: jnp.concatenate([a, b], 1), {"a": (5, 3), "b": (5, 1)}),
    "outputs, transposed": (lambda a, b: jnp.concatenate([a.T, b.T]).T, {"a": (5, 3), "b": (5, 1)}),
    "inputs": (lambda a, b: jnp.concatenate([a, b]), {"a": (3, 4), "b": (2, 4)}),
    "stacked": (
        lambda a, b: jnp.stack([a, b], 1).reshape(5, 4), {"a": (5, 2), "b": (5, 2)}
    ),
    "cut": (
        lambda a, b: jnp.concatenate([a, b], 1)[:, 1:5], {"a": (5, 1), "b": (5, 5)}
    ),
    "blocks": (
        lambda a, b, c, d: jnp.block([[a, b], [c, d]]),
        {"a": (2, 3), "b": (2, 1), "c": (3, 3), "d": (3, 1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", [name for name in JOINED if name != "cut"])
def test_kernels_side_by_side_are_read_as_the_jacobian_shows(case: str) -> None:
    made, shapes = JOINED[case]
    graph = in_a_row(made, **shapes)
    assert graph.barriers == ()
    assert set(graph.names) == {"first", "last", *shapes}
    places = made(*(jnp.full(shape, i + 1.0) for i, shape in enumerate(shapes.values())))
    rows = made(*(jnp.arange(shape[0])[:, None] + jnp.zeros(shape) for shape in shapes.values()))
    columns = made(*(jnp.arange(shape[1]) + jnp.zeros(shape) for shape in shapes.values()))
    for i, name in enumerate(shapes):
        at = np.argwhere(np.asarray(places) == i + 1)
        into = {(int(row), int(rows[row, column])) for row, column in at}
        out_of = {(int(columns[row, column]), int(column)) for row, column in at}
        assert flow(graph, "first", name) == into
        assert flow(graph, name, "last") == out_of


def flow(graph: lap_jax.Graph, source: str, target: str) -> set[tuple[int, int]]:
    """Channel pairs between two layers, through junctions."""
    found = set(pairs(graph, source, target))
    for part in graph.junctions:
        into = pairs(graph, source, part.name)
        onward = flow(graph, part.name, target) if into else set()
        found |= {(a, d) for a, b in into for c, d in onward if b == c}
    return found


def test_a_part_that_is_cut_off_is_a_part_of_a_kernel_and_not_read() -> None:
    graph = in_a_row(JOINED["cut"][0], **JOINED["cut"][1])
    assert {each.path for each in graph.unread} == {"a", "b"}


def test_queries_keys_and_values_in_one_product_are_three_layers() -> None:
    params = kernels((6, 8), (6, 8), (6, 8), (8, 6))

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        q, k, v = (part.reshape(2, 7, 2, 4) for part in (q, k, v))
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(2, 7, 8)

    def fused(p: Any, x: jax.Array) -> jax.Array:
        qkv = x @ jnp.concatenate([w(p, name) for name in "abc"], 1)
        return attend(*jnp.split(qkv, 3, -1)) @ w(p, "d")

    def heads(p: Any, x: jax.Array) -> jax.Array:
        kernel = jnp.stack([w(p, name) for name in "abc"], 1).reshape(6, 3, 2, 4)
        qkv = jnp.einsum("bti,ichd->cbthd", x, kernel)
        return attend(*qkv) @ w(p, "d")

    def apart(p: Any, x: jax.Array) -> jax.Array:
        return attend(*(x @ w(p, name) for name in "abc")) @ w(p, "d")

    x = jnp.ones((2, 7, 6))
    wanted = lap_jax.lookahead_scores(params, lap_jax.trace(apart, params, x))
    for model in (fused, heads):
        graph = lap_jax.trace(model, params, x)
        assert graph.barriers == ()
        assert set(graph.names) == set("abcd")
        found = lap_jax.lookahead_scores(params, graph)
        for name in "abcd":
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5)


def test_a_low_rank_kernel_is_two_layers_in_a_row() -> None:
    params = kernels((6, 5), (5, 2), (2, 4), (4, 3))

    def model(p: Any, x: jax.Array, apart: bool) -> jax.Array:
        h = x @ w(p, "a")
        h = h @ w(p, "b") @ w(p, "c") if apart else h @ (w(p, "b") @ w(p, "c"))
        return h @ w(p, "d")

    found, wanted = (
        lap_jax.trace(model, params, jnp.ones((3, 6)), apart=apart) for apart in (False, True)
    )
    assert found == wanted
    turned = lap_jax.trace(
        lambda p, x: x @ w(p, "a") @ (w(p, "c").T @ w(p, "b").T).T @ w(p, "d"),
        params,
        jnp.ones((3, 6)),
    )
    assert edges(turned) == edges(wanted)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_lora_is_the_sum_of_a_layer_and_two(alpha: float) -> None:
    params = kernels((6, 5), (5, 4), (5, 2), (2, 4), (4, 3))

    def model(p: Any, x: jax.Array, apart: bool) -> jax.Array:
        h = x @ w(p, "a")
        if apart:
            h = h @ w(p, "b") + alpha * (h @ w(p, "c") @ w(p, "d"))
        else:
            h = h @ (w(p, "b") + alpha * (w(p, "c") @ w(p, "d")))
        return h @ w(p, "e")

    found, wanted = (
        lap_jax.trace(model, params, jnp.ones((3, 6)), apart=apart) for apart in (False, True)
    )
    assert found == wanted
    assert set(found.names) == set("abcde")


def test_a_low_rank_kernel_in_heads() -> None:
    params = kernels((6, 2), (2, 8), (8, 3))

    def model(p: Any, x: jax.Array, apart: bool) -> jax.Array:
        if apart:
            h = x @ w(p, "a") @ w(p, "b")
        else:
            h = jnp.einsum("bi,ihd->bhd", x, (w(p, "a") @ w(p, "b")).reshape(6, 2, 4))
        return h.reshape(3, 8) @ w(p, "c")

    found, wanted = (
        lap_jax.trace(model, params, jnp.ones((3, 6)), apart=apart) for apart in (False, True)
    )
    assert edges(found) == edges(wanted)


def test_convolutions_of_several_kernels() -> None:
    params = kernels((3, 3, 4, 3), (3, 3, 4, 2), (3, 3, 2, 4), (3, 3, 3, 4), (3, 3, 4, 4))

    def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def fused(p: Any, x: jax.Array) -> jax.Array:
        h = conv(x, jnp.concatenate([w(p, "a"), w(p, "b")], 3))
        h = conv(h, jnp.concatenate([w(p, "c"), w(p, "d")], 2))
        return conv(h, w(p, "e") + jnp.tanh(w(p, "e")))

    def apart(p: Any, x: jax.Array) -> jax.Array:
        h = jnp.concatenate([conv(x, w(p, "a")), conv(x, w(p, "b"))], 3)
        return conv(conv(h[..., :2], w(p, "c")) + conv(h[..., 2:], w(p, "d")), w(p, "e"))

    found, wanted = (
        lap_jax.trace(model, params, jnp.ones((1, 8, 8, 4))) for model in (fused, apart)
    )
    assert edges(found) == edges(wanted)
    assert found.barriers == ()


def test_measures_of_layers_that_share_a_contraction_are_of_its_input() -> None:
    params = kernels((6, 5), (5, 4), (5, 2), (2, 4), (4, 3))

    def model(p: Any, x: jax.Array) -> jax.Array:
        return x @ w(p, "a") @ (w(p, "b") + w(p, "c") @ w(p, "d")) @ w(p, "e")

    x = jax.random.normal(jax.random.key(1), (7, 6))
    graph = lap_jax.trace(model, params, x)
    found = lap_jax.measure(model, params, x, graph=graph)
    met = jnp.sqrt(((x @ w(params, "a")) ** 2).mean(0))
    for name in "bc":
        assert found[name].output is None
        chex.assert_trees_all_close(found[name].input, met, rtol=1e-5)
    assert "d" not in found
    assert np.isfinite(lap_jax.lookahead_scores(params, graph, measured=found)["d"]).all()


def test_a_learned_query_is_read_from_the_keys() -> None:
    """Its scores are ``x @ keys @ query.T @ probe``: layers in a row, and a bias is none."""
    params = kernels((6, 5), (5, 8), (5, 8), (5, 8), (8, 3))
    params |= {"probe": jnp.ones((1, 1, 5)), "bias": jnp.ones((2, 4))}

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = x @ w(p, "a")
        k, v = ((h @ w(p, name)).reshape(2, 7, 2, 4) for name in "bc")
        q = (jnp.tile(p["probe"], (2, 1, 1)) @ w(p, "d")).reshape(2, 1, 2, 4) + p["bias"]
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q / 2, k))
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(2, 1, 8) @ w(p, "e")

    graph = lap_jax.trace(model, params, jnp.ones((2, 7, 6)))
    assert graph.barriers == ()
    assert set(graph.names) == {*"abcde", "probe"}
    assert [each.path for each in graph.unread] == ["bias"]
    assert flow(graph, "b", "d") == {(i, i) for i in range(8)}
    assert flow(graph, "a", "b") == {(i, i) for i in range(5)}
    assert {(a, c % 5) for a, c in flow(graph, "d", "probe")} == {
        (i, i % 5) for i in range(10)
    }  # fmt: skip
    assert {a for a, _ in flow(graph, "c", "e")} == set(range(8))

"""Kernels of any layout, and activations that are multiplied with each other."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lap_jax
from tests.tracing.small import brought, kernels, pairs, w


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


def test_experts_of_ragged_groups_are_a_layer_each() -> None:
    params = kernels((5, 4), (3, 4, 6), (3, 6, 4), (4, 2))

    def model(p: Any, x: jax.Array, sizes: jax.Array) -> jax.Array:
        h = jax.nn.relu(jax.lax.ragged_dot(x @ w(p, "a"), w(p, "b"), sizes))
        return jax.lax.ragged_dot(h, w(p, "c"), sizes) @ w(p, "d")

    graph = lap_jax.trace(model, params, jnp.ones((9, 5)), jnp.array([2, 3, 4]))
    assert graph.barriers == ()
    assert graph.unread == ()
    for expert in range(3):
        up, down = f"b[{expert}]", f"c[{expert}]"
        assert pairs(graph, "a", up) == {(i, i) for i in range(4)}
        for other in range(3):  # rows are not told apart
            between = brought(graph, f"b[{other}]", down)
            np.testing.assert_array_equal(between, np.eye(6, dtype=bool))
        np.testing.assert_array_equal(brought(graph, down, "d"), np.eye(4, dtype=bool))
    assert len(graph.junctions) == 2
    lap_jax.measure(model, params, jnp.ones((9, 5)), jnp.array([2, 3, 4]), graph=graph)


# ---------------------------------------------------------------- activations with activations


MIXTURES: dict[str, tuple[Any, tuple[int, int, int]]] = {
    "mixture": (
        lambda a, b: jnp.einsum("be,beo->bo", jax.nn.softmax(a), b.reshape(-1, 3, 4)), (3, 12, 4)
    ),
    "mixture over tokens": (
        lambda a, b: jnp.einsum(
            "be,bteo->bto", a, jnp.broadcast_to(b.reshape(-1, 1, 3, 4), (len(b), 5, 3, 4))
        )[:, 0],
        (3, 12, 4),
    ),
    "bilinear": (lambda a, b: jnp.einsum("bi,bi->b", a, b)[:, None], (6, 6, 1)),
    "bilinear in heads": (
        lambda a, b: jnp.einsum("bhi,bhi->bh", a.reshape(-1, 2, 3), b.reshape(-1, 2, 3)),
        (6, 6, 2),
    ),
    "outer": (lambda a, b: jnp.einsum("bi,bj->bij", a, b).reshape(len(a), -1), (2, 3, 6)),
}  # fmt: skip


@pytest.mark.parametrize("case", MIXTURES)
def test_activations_that_are_mixed_by_others_bring_what_the_jacobian_shows(case: str) -> None:
    mix, (one, two, three) = MIXTURES[case]
    params = kernels((5, one), (5, two), (three, 2))

    def model(p: Any, x: jax.Array) -> jax.Array:
        return mix(x @ w(p, "a"), x @ w(p, "b")) @ w(p, "c")

    graph = lap_jax.trace(model, params, jnp.ones((2, 5)))
    assert graph.barriers == ()
    values = [jax.random.normal(key, (1, n)) for key, n in
              zip(jax.random.split(jax.random.key(1)), (one, two), strict=True)]  # fmt: skip
    for name, place in (("a", 0), ("b", 1)):
        slope = jax.jacobian(mix, place)(*values)[0, :, 0]
        found = brought(graph, name, "c")
        assert not (np.asarray(slope != 0).T & ~found).any()
        if case != "mixture" or name == "b":
            np.testing.assert_array_equal(found, np.asarray(slope != 0).T)
    assert np.isfinite(lap_jax.lookahead_scores(params, graph)["c"]).all()


def best(a: jax.Array, b: jax.Array, weighed: bool) -> jax.Array:
    """The best of three experts, or a mixture of the best two."""
    experts = b.reshape(-1, 3, 4)
    if not weighed:
        return jnp.take_along_axis(experts, jnp.argmax(a, -1)[:, None, None], 1)[:, 0]
    chances, chosen = jax.lax.top_k(a, 2)
    weights = jax.nn.softmax(chances)[..., None] * jax.nn.one_hot(chosen, 3)
    return jnp.einsum("be,beo->bo", weights.sum(1), experts)


@pytest.mark.parametrize("weighed", [False, True])
def test_experts_that_the_data_choose_are_all_neighbours(weighed: bool) -> None:
    params = kernels((5, 3), (5, 12), (4, 2))

    def model(p: Any, x: jax.Array) -> jax.Array:
        return best(x @ w(p, "a"), x @ w(p, "b"), weighed) @ w(p, "c")

    graph = lap_jax.trace(model, params, jnp.ones((2, 5)))
    (barrier,) = graph.barriers  # the router: it says which, and is no neighbour
    assert (barrier.before, barrier.after) == (("a",), ("c",))
    a, b = (jax.random.normal(key, (40, n)) for key, n in
            zip(jax.random.split(jax.random.key(1)), (3, 12), strict=True))  # fmt: skip
    slopes = jax.vmap(jax.jacobian(lambda a, b: best(a[None], b[None], weighed)[0], 1))(a, b)
    np.testing.assert_array_equal(brought(graph, "b", "c"), np.asarray(slopes != 0).any(0).T)


def test_linear_attention_is_a_mixture_of_values() -> None:
    params = kernels((5, 4), (5, 4), (5, 6), (6, 2))

    def model(p: Any, x: jax.Array) -> jax.Array:
        q, k, v = (x @ w(p, name) for name in "abc")
        return jnp.einsum("btd,bde->bte", q, jnp.einsum("btd,bte->bde", k, v)) @ w(p, "d")

    graph = lap_jax.trace(model, params, jnp.ones((2, 7, 5)))
    assert graph.barriers == ()
    np.testing.assert_array_equal(brought(graph, "c", "d"), np.eye(6, dtype=bool))
    for name in "ab":
        assert brought(graph, name, "d").all()


def test_a_single_query_weighs_positions() -> None:
    params = kernels((5, 4), (5, 4), (5, 4), (4, 2))

    def model(p: Any, x: jax.Array) -> jax.Array:
        weights = jax.nn.softmax(jnp.einsum("bd,btd->bt", x[:, 0] @ w(p, "a"), x @ w(p, "b")))
        return jnp.einsum("bt,btd->bd", weights, x @ w(p, "c")) @ w(p, "d")

    graph = lap_jax.trace(model, params, jnp.ones((2, 7, 5)))
    assert graph.barriers == ()
    (product,) = graph.junctions
    assert graph.ends_at_positions(product.name)
    assert pairs(graph, "c", "d") == {(i, i) for i in range(4)}


# ---------------------------------------------------------------- kernels that data scale


def modulated(w: jax.Array, style: jax.Array) -> jax.Array:
    """A kernel whose inputs are scaled by a style, over its own norm (StyleGAN2)."""
    k = w * style[:, None]
    return k * jax.lax.rsqrt((k**2).sum((0, 1, 2)) + 1e-8)


def one_by_one(w: jax.Array, h: jax.Array, styles: jax.Array) -> jax.Array:
    return jax.vmap(lambda h, style: convolved(h[None], modulated(w, style), 1)[0])(h, styles)


def in_groups(w: jax.Array, h: jax.Array, styles: jax.Array) -> jax.Array:
    kernels = jnp.concatenate([modulated(w, style) for style in styles], -1)
    side_by_side = jnp.concatenate(list(h), -1)[None]
    return jnp.stack(jnp.split(convolved(side_by_side, kernels, len(h))[0], len(h), -1))


def convolved(h: jax.Array, kernel: jax.Array, groups: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        h, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )  # fmt: skip


@pytest.mark.parametrize("modulate", [one_by_one, in_groups])
def test_a_kernel_that_data_scale_is_listed_behind_a_barrier(modulate: Any) -> None:
    params = kernels((3, 3, 2, 5), (7, 5), (3, 3, 5, 4), (4, 2))

    def model(p: Any, x: jax.Array, z: jax.Array) -> jax.Array:
        h = jax.nn.relu(convolved(x, w(p, "a"), 1))
        h = modulate(w(p, "c"), h, z @ w(p, "b") + 1)
        return jax.nn.relu(h).mean((1, 2)) @ w(p, "d")

    graph = lap_jax.trace(model, params, jnp.ones((2, 4, 4, 2)), jnp.ones((2, 7)))
    assert set(graph.names) == {"a", "b", "d"}
    (unread,) = graph.unread
    assert (unread.path, unread.is_weight) == ("c/kernel", True)
    assert (
        unread.why
        == "it is multiplied with data entry by entry, as a modulated kernel is: not read"
    )
    (barrier,) = graph.barriers
    assert barrier.why == "the kernel depends on the data"
    assert set(barrier.before) == {"a", "b"}
    assert barrier.after == ("d",)

"""Kernels that are made of one leaf, entry by entry: each entry keeps its place."""

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
from lap_jax.graph.layers import Factor
from lap_jax.paths import leaves_by_path
from tests.tracing.small import in_a_row, kernels, pairs, w

X = jnp.ones((3, 5))


# ---------------------------------------------------------------- one leaf, entry by entry


@jax.custom_vjp
def quantised(k: jax.Array) -> jax.Array:
    return jnp.round(k * 8) / 8


quantised.defvjp(lambda k: (quantised(k), None), lambda _, g: (g,))


@jax.custom_jvp
def binarised(k: jax.Array) -> jax.Array:
    return jnp.where(k > 0, 1.0, -1.0)


binarised.defjvp(lambda primals, tangents: (binarised(*primals), tangents[0]))


def standardised(k: jax.Array) -> jax.Array:
    k = k - k.mean(0, keepdims=True)
    return k / jnp.sqrt(k.var(0, keepdims=True) + 1e-10)


ENTRYWISE: dict[str, Callable[[jax.Array], jax.Array]] = {
    "straight through": lambda k: k + lax.stop_gradient(jnp.round(k) - k),
    "custom_vjp": quantised,
    "custom_jvp": binarised,
    "to int8 and back": lambda k: (k * 127).astype(jnp.int8).astype(jnp.float32) / 127,
    "by a scale of its own": lambda k: jnp.round(k / abs(k).max()) * abs(k).max(),
    "thresholded": lambda k: jnp.where(abs(k) < 0.1, 0.0, k),
    "thresholded by a product": lambda k: k * (abs(k) > 0.1),
    "clipped": lambda k: jnp.clip(k, -1, 1),
    "bent": jnp.tanh,
    "masked": lambda k: k * np.eye(5, 4, dtype=np.float32),
    "turned and back": lambda k: k[::-1][::-1].T.T,
    "standardised": standardised,
    "of norm one": lambda k: k / jnp.linalg.norm(k, axis=0),
    "of all norm one": lambda k: k / jnp.linalg.norm(k),
    "normed by softmax": lambda k: jnp.exp(k) / jnp.exp(k).sum(0),
}


@pytest.mark.parametrize("case", ENTRYWISE)
def test_a_leaf_entry_by_entry_is_that_leaf(case: str) -> None:
    graph, wanted = (in_a_row(made, k=(5, 4)) for made in (ENTRYWISE[case], lambda k: k))
    assert graph == wanted
    assert graph.barriers == ()
    assert graph.unread == ()


def test_what_scales_a_kernel_and_is_no_factor_is_noted() -> None:
    for case, function in ENTRYWISE.items():
        notes = in_a_row(function, k=(5, 4)).notes
        scaled = "norm" in case or case in ("standardised", "by a scale of its own")
        assert bool(notes) == scaled, case
        assert all("k: a kernel scaled by what is no factor" in note for note in notes)
    assert "note: k: a kernel" in str(in_a_row(standardised, k=(5, 4)))


def test_gains_of_kernels_are_factors_of_their_channels() -> None:
    graph = in_a_row(lambda v, g: g * v / jnp.linalg.norm(v, axis=0), v=(5, 4), g=(1, 4))
    (scale,) = graph.junctions
    assert scale.factors == (Factor("g"),)
    assert pairs(graph, "v", scale.name) == pairs(graph, scale.name, "last") == {
        (i, i) for i in range(4)
    }  # fmt: skip
    (unread,) = graph.unread
    assert (unread.path, unread.is_weight) == ("g", False)
    graph = in_a_row(lambda v, g: jnp.tanh(v) / g, v=(5, 4), g=(5, 1))
    (scale,) = graph.junctions
    assert scale.factors == (Factor("g", -1.0),)
    assert {edge.source for edge in graph.into("v")} == {scale.name}


def test_weight_norm_has_its_scale_as_factor() -> None:
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dense(3)(nn.relu(nn.WeightNorm(nn.Dense(4))(x)))

    model = Model()
    variables = model.init(jax.random.key(0), X)
    graph = lap_jax.trace(model, variables, X)
    first, last = graph.names
    assert {edge.source for edge in graph.into(last)} == {first}
    (factor,) = graph[first].factors
    assert factor.path.endswith("kernel/scale")
    params = variables["params"]
    by_path = leaves_by_path(params)
    scores = lap_jax.lookahead_scores(params, graph)
    after = jnp.linalg.norm(by_path[graph[last].path], axis=1)
    wanted = abs(by_path[graph[first].path]) * abs(by_path[factor.path]) * after
    np.testing.assert_allclose(scores[first], wanted, rtol=1e-5)


def test_the_same_kernel_read_backwards_is_the_same_layer() -> None:
    params = kernels((3, 3, 2, 4), (3, 3, 4, 2))

    def model(turn: bool) -> lap_jax.Graph:
        def apply(p: Any, x: jax.Array) -> jax.Array:
            for name in "ab":
                k = w(p, name)[::-1, ::-1] if turn else w(p, name)
                x = lax.conv_general_dilated(
                    x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            return x

        return lap_jax.trace(apply, params, jnp.ones((1, 8, 8, 2)))

    found, wanted = model(True), model(False)
    assert found.edges == wanted.edges
    assert [layer.shape for layer in found.layers] == [layer.shape for layer in wanted.layers]
    assert found.barriers == ()


def test_two_kernels_multiplied_entry_by_entry_are_not_read() -> None:
    graph = in_a_row(lambda k, m: k * m, k=(5, 4), m=(5, 4))
    assert {each.path for each in graph.unread} == {"k", "m"}
    assert "its kernel is not just one parameter" in graph.unread[0].why


WHOLE: dict[str, Callable[[Any, jax.Array], jax.Array]] = {
    "a scale each output": lambda p, h: h @ (p["q"].astype(jnp.float32) * p["s"]),
    "a scale each input": lambda p, h: h @ (p["q"].astype(jnp.float32) * p["in"]),
    "one scale": lambda p, h: h @ (p["q"].astype(jnp.float32) * p["one"]),
    "scaled behind it": lambda p, h: (h @ p["q"].astype(jnp.float32)) * p["s"],
    "convolved": lambda p, h: lax.conv_general_dilated(
        h[:, None], (p["q"].astype(jnp.float32) * p["s"])[None], (1,), "SAME",
        dimension_numbers=("NHC", "HIO", "NHC"),
    )[:, 0],
}  # fmt: skip


@pytest.mark.parametrize("case", WHOLE)
def test_integers_are_not_pruned_and_lose_nothing_in_silence(case: str) -> None:
    params = {
        "first": jnp.ones((6, 5)), "q": jnp.ones((5, 4), jnp.int8), "s": jnp.ones((4,)),
        "in": jnp.ones((5, 1)), "one": jnp.ones(()), "last": jnp.ones((4, 2)),
    }  # fmt: skip

    def model(p: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(WHOLE[case](p, jax.nn.relu(x @ p["first"]))) @ p["last"]

    graph = lap_jax.trace(model, params, jnp.ones((3, 6)))
    assert graph.names == ("first", "last")
    assert graph.into("last") == graph.out_of("first") == ()
    why = "its kernel is no floating-point leaf"
    (weight,) = (each for each in graph.unread if each.is_weight)
    assert (weight.path, weight.why) == ("q", why)
    if case == "a scale each input":
        assert {each.path: each.why for each in graph.unread}["in"] == "it multiplies a kernel"
    (barrier,) = graph.barriers
    assert set(barrier.before) == {"q", "first"}
    assert set(barrier.after) == {"q", "last"}
    with pytest.warns(UserWarning, match="1 leaf is not in the graph, and not pruned: q"):
        lap_jax.lookahead_masks(params, graph, 0.5)

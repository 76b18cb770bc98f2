"""The graph that comes of a model: junctions, factors and barriers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lap_jax
from lap_jax import Edge, PruningError
from tests.tracing.small import Normed, kernels, residual, w


def test_norms_scale_channels() -> None:
    x = jnp.ones((2, 4, 4, 3))
    variables = jax.jit(Normed().init)(jax.random.key(0), x)
    graph = lap_jax.trace(Normed(), variables, x)
    assert graph["Conv_0"].factors == lap_jax.Norm("BatchNorm_0", epsilon=1e-3).factors
    assert graph["Conv_0"].pool == 2
    assert graph.into("Dense_0") == (Edge("Conv_0", "Dense_0", positions=4),)
    paths = [factor.path for junction in graph.junctions for factor in junction.factors]
    assert paths == ["RMSNorm_0/scale", "LayerNorm_0/scale"]
    assert graph.barriers == ()
    params = jax.tree.map(lambda leaf: leaf, variables["params"])
    params["RMSNorm_0"]["scale"] = jnp.array([1.0, -2.0, 0.0, 1.0, 1.0, 1.0])
    found = lap_jax.lookahead_scores(params, graph, batch_stats=variables["batch_stats"])
    dense = params["Dense_0"]["kernel"]
    expected = (
        abs(params["Dense_2"]["kernel"])
        * (jnp.linalg.norm(dense, axis=0) * abs(params["RMSNorm_0"]["scale"]))[:, None]
    )
    after = found["Dense_2"] / expected
    np.testing.assert_allclose(after[0], after[1], rtol=1e-5)
    assert not found["Dense_2"][2].any()
    without = {name: part for name, part in params.items() if name != "RMSNorm_0"}
    with pytest.raises(PruningError, match="is multiplied by 'RMSNorm_0/scale', which neither"):
        lap_jax.lookahead_scores(without, graph, batch_stats=variables["batch_stats"])


BARRIERS = {
    "sort": (lambda h: jnp.sort(h, axis=1), "sort"),
    "matrix": (lambda h: h @ jnp.eye(4)[::-1] * 2, "dot_general"),
    "cumulative": (lambda h: jnp.cumsum(h, 1), "cumsum"),
    "norm of channels": (
        lambda h: jnp.broadcast_to(h.max(1, keepdims=True), h.shape),
        "reduce_max",
    ),
    "while": (
        lambda h: jax.lax.while_loop(lambda h: h.sum() < 3, lambda h: h * 2, h),
        "while",
    ),
}


@pytest.mark.parametrize("name", BARRIERS)
def test_what_cannot_be_read_is_told(name: str) -> None:
    change, primitive = BARRIERS[name]
    params = kernels((5, 4), (4, 2))
    graph = lap_jax.trace(lambda p, x: change(x @ w(p, "a")) @ w(p, "b"), params, jnp.ones((3, 5)))
    told = {barrier.primitive: barrier for barrier in graph.barriers}
    assert primitive in told, graph
    assert "test_builder.py" in told[primitive].where
    assert any("a" in barrier.before and "b" in barrier.after for barrier in graph.barriers)
    assert graph.into("b") == ()
    assert "barrier" in str(graph)
    scores = lap_jax.lookahead_scores(params, graph)
    np.testing.assert_array_equal(scores["b"], abs(w(params, "b")))


def test_the_graph_grows_with_the_blocks_not_their_square() -> None:
    sizes = []
    for blocks in (4, 8, 16):
        params, model = residual(blocks)
        sizes.append(len(lap_jax.trace(model, params, jnp.ones((1, 5))).edges))
    assert sizes[2] - sizes[1] == 2 * (sizes[1] - sizes[0])


def test_each_leaf_that_is_no_layer_has_a_reason() -> None:
    params = kernels((5, 4), (4, 2), (4, 4), (3, 4), (2, 2), (4, 4))
    params["table"] = {"embedding": jnp.ones((7, 4))}
    params["low"] = {"kernel": jnp.ones((4, 4), jnp.float8_e4m3fn)}

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = x @ w(p, "a") + p["table"]["embedding"][: x.shape[0]]
        h = h @ (jnp.cumsum(w(p, "c"), 0) + w(p, "f")) + w(p, "d")[0]
        return h @ w(p, "b")

    graph = lap_jax.trace(model, params, jnp.ones((3, 5)))
    told = {each.path: each for each in graph.unread}
    assert set(told) == {f"{name}/kernel" for name in "cdef"} | {"table/embedding", "low/kernel"}
    assert "its kernel is" in told["c/kernel"].why
    assert told["c/kernel"].shape == (4, 4)
    assert "test_builder.py" in told["c/kernel"].where
    assert "bias" in told["d/kernel"].why
    assert "no data meets it" in told["e/kernel"].why
    assert "float8" in told["low/kernel"].why
    assert "by their position" in told["table/embedding"].why
    assert [path for path, each in told.items() if not each.is_weight] == ["d/kernel"]
    assert all(path in str(graph) for path in told)


def test_kernels_that_the_data_scale_are_told() -> None:
    """As StyleGAN2 does: each sample has its own kernel."""
    params = kernels((5, 4), (4, 3), (3, 2))

    def model(p: Any, x: jax.Array) -> jax.Array:
        style = x @ w(p, "a")
        kernel = style[:, :, None] * w(p, "b")
        kernel = kernel * jax.lax.rsqrt((kernel**2).sum(1, keepdims=True) + 1e-8)
        return jnp.einsum("bi,bio->bo", jnp.ones((3, 4)), kernel) @ w(p, "c")

    graph = lap_jax.trace(model, params, jnp.ones((3, 5)))
    assert graph.names == ("a", "c")
    (unread,) = graph.unread
    assert (unread.path, unread.is_weight) == ("b/kernel", True)
    assert any("a" in barrier.before and "c" in barrier.after for barrier in graph.barriers)

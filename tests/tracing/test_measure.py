"""Norms of activations and of gradients on data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import lap_jax
from lap_jax import METHODS, PruningError
from tests.tracing.small import kernels, residual, w


def test_measured_norms() -> None:
    params, model = residual(2)
    x = jax.random.normal(jax.random.key(3), (50, 5))
    graph = lap_jax.trace(model, params, x)
    measured = lap_jax.measure(model, params, x, graph=graph)
    stem = np.asarray(x @ w(params, "stem"))
    chex.assert_trees_all_close(measured["stem"].input, np.sqrt((x**2).mean(0)), rtol=1e-5)
    chex.assert_trees_all_close(measured["a0"].input, np.sqrt((stem**2).mean(0)), rtol=1e-5)
    hidden = np.maximum(stem @ np.asarray(w(params, "a0")), 0)
    chex.assert_trees_all_close(measured["b0"].input, np.sqrt((hidden**2).mean(0)), rtol=1e-5)
    chex.assert_trees_all_close(measured["a0"].active, (hidden > 0).mean(0), rtol=1e-5)
    wanda = {name: each._replace(active=None, output=None) for name, each in measured.items()}
    scores = lap_jax.lookahead_scores(params, graph, method="LBP", measured=wanda)
    np.testing.assert_allclose(
        scores["b0"], abs(w(params, "b0")) * np.sqrt((hidden**2).mean(0))[:, None], rtol=1e-5
    )
    only = {name: each._replace(input=None, output=None) for name, each in measured.items()}
    scores = lap_jax.lookahead_scores(params, graph, measured=only)
    share = np.sqrt((hidden > 0).mean(0))
    expected = (
        abs(w(params, "a0")) * np.linalg.norm(w(params, "stem"), axis=0)[:, None]
        * share * np.linalg.norm(w(params, "b0"), axis=1)
    )  # fmt: skip
    np.testing.assert_allclose(scores["a0"], expected, rtol=1e-5)
    wrong = {"a0": measured["a0"]._replace(input=jnp.ones(3))}
    with pytest.raises(PruningError, match="measured input of layer 'a0' has shape"):
        lap_jax.lookahead_masks(params, graph, 0.5, measured=wrong)
    with pytest.raises(PruningError, match="no layer 'zz'"):
        lap_jax.lookahead_masks(params, graph, 0.5, measured={"zz": measured["a0"]})


@pytest.mark.parametrize("blocks", [1, 4])
def test_measured_scores_are_the_distortion_of_the_whole_network(blocks: int) -> None:
    """Of a linear residual net, against explicit Jacobians: rank correlation and top tenth."""
    size, key = 24, jax.random.key(5)
    names = ["stem", *(f"{part}{block}" for block in range(blocks) for part in "ab"), "head"]
    params = {
        name: {"kernel": jax.random.t(each, 2.0, (size, size)) / size**0.5}
        for name, each in zip(names, jax.random.split(key, len(names)), strict=True)
    }
    for name in names[1:-1]:
        params[name]["kernel"] *= 0.3

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = x @ w(p, "stem")
        for block in range(blocks):
            h = h + h @ w(p, f"a{block}") @ w(p, f"b{block}")
        return h @ w(p, "head")

    x = jax.random.normal(jax.random.key(6), (1000, size))
    graph = lap_jax.trace(model, params, x)
    measured = lap_jax.measure(model, params, x, graph=graph)
    ways: dict[str, dict[str, jax.Array]] = {
        "MP": lap_jax.lookahead_scores(params, graph, method="MP"),
        "chain": lap_jax.lookahead_scores(params, graph.main_path()),
        "identity": lap_jax.lookahead_scores(params, graph.identity_shortcuts()),
        "graph": lap_jax.lookahead_scores(params, graph),
        "all": lap_jax.lookahead_scores(
            params, graph, method=METHODS["LAP"]._replace(horizon="all")
        ),
        "measured": lap_jax.lookahead_scores(params, graph, measured=measured),
    }
    jacobian = jax.jacobian(lambda p: model(p, jnp.eye(size)))(params)
    agreement = {}
    for way, scores in ways.items():
        found = []
        for name in names:
            slope = jnp.sqrt((w(jacobian, name) ** 2).sum((0, 1)))
            true = np.asarray(abs(w(params, name)) * slope).ravel()
            one, other = (np.argsort(np.argsort(each)) for each in (true, np.ravel(scores[name])))
            found.append(np.corrcoef(one, other)[0, 1])
        agreement[way] = float(np.mean(found))
    assert agreement["measured"] > 0.99
    assert agreement["all"] > 0.95
    best = max(agreement[way] for way in ("MP", "chain", "identity", "graph"))
    assert agreement["measured"] > agreement["all"] > best


@jax.custom_vjp
def straight_through(x: jax.Array) -> jax.Array:
    """Rounds; its derivative is one."""
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, change: (change,))


@jax.custom_jvp
def clipped(x: jax.Array) -> jax.Array:
    """The sign; its derivative is one between -1 and 1."""
    return jnp.sign(x)


clipped.defjvp(lambda x, dx: (jnp.sign(x[0]), jnp.where(abs(x[0]) < 1, dx[0], 0)))


@jax.custom_vjp
def dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


dense.defvjp(
    lambda x, kernel: (x @ kernel, (x, kernel)),
    lambda saved, change: (change @ saved[1].T, saved[0].T @ change),
)


def halves(h: jax.Array) -> jax.Array:
    """Squares, each half of the samples on a device of its own."""
    mesh = jax.make_mesh((2,), ("half",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.shard_map(jnp.square, mesh=mesh, in_specs=P("half"), out_specs=P("half"))(h)


BETWEEN: dict[str, Callable[[jax.Array], jax.Array]] = {
    "custom_vjp": straight_through,
    "custom_jvp": clipped,
    "custom_vjp in jit": jax.jit(lambda h: straight_through(h) * 2),
    "custom_vjp in remat": jax.checkpoint(lambda h: clipped(straight_through(h))),
    "custom_vjp in a loop": lambda h: lax.fori_loop(0, 2, lambda _, h: straight_through(h), h),
    "custom_vjp in a branch": lambda h: lax.cond(h[0, 0] > 9, jnp.tanh, straight_through, h),
    "shard_map": halves,
}  # fmt: skip


@pytest.mark.parametrize("case", BETWEEN)
def test_derivatives_are_those_of_the_model(case: str) -> None:
    params, between = kernels((5, 4), (4, 3)), BETWEEN[case]
    x, key = jax.random.normal(jax.random.key(3), (6, 5)), jax.random.key(7)

    def model(p: Any, x: jax.Array, change: jax.Array | float = 0.0) -> jax.Array:
        return between(x @ w(p, "a") + change) @ w(p, "b")

    graph = lap_jax.trace(model, params, x)
    measured = lap_jax.measure(model, params, x, graph=graph, key=key)
    z = jax.random.normal(jax.random.split(key, 1)[0], (6, 3))
    slope = jax.grad(lambda change: (z * model(params, x, change)).sum())(jnp.zeros((6, 4)))
    wanted = jnp.sqrt((slope**2).mean(0))
    assert wanted.any()
    chex.assert_trees_all_close(measured["a"].output, wanted, rtol=1e-5)
    reaches = between(x @ w(params, "a"))
    chex.assert_trees_all_close(measured["b"].input, jnp.sqrt((reaches**2).mean(0)), rtol=1e-5)


def test_kernels_inside_of_custom_derivatives_are_found_and_measured() -> None:
    params = kernels((5, 4), (4, 3))
    x = jax.random.normal(jax.random.key(3), (6, 5))

    def model(p: Any, x: jax.Array, product: Any) -> jax.Array:
        return product(jnp.tanh(product(x, w(p, "a"))), w(p, "b"))

    found, wanted = (
        lap_jax.measure(
            functools.partial(model, product=product), params, x,
            graph=lap_jax.trace(functools.partial(model, product=product), params, x),
        )
        for product in (dense, jnp.matmul)
    )  # fmt: skip
    assert set(found) == {"a", "b"}
    chex.assert_trees_all_close(found, wanted, rtol=1e-6)


def test_a_graph_of_another_model_is_refused() -> None:
    params, x = kernels((5, 5), (5, 5), (5, 5)), jnp.ones((3, 5))

    def model(p: Any, x: jax.Array, names: str) -> jax.Array:
        for name in names:
            x = jnp.tanh(x @ w(p, name))
        return x

    whole = lap_jax.trace(model, params, x, names="abc")
    with pytest.raises(PruningError, match="layer 'c' of the graph is not read by the model"):
        lap_jax.measure(model, params, x, names="ab", graph=whole)
    part = lap_jax.trace(model, params, x, names="ab")
    assert set(lap_jax.measure(model, params, x, names="abc", graph=part)) == {"a", "b"}
    others = {name.upper(): leaf for name, leaf in params.items()}
    with pytest.raises(PruningError, match="'a/kernel'"):
        lap_jax.measure(model, others, x, names="ABC", graph=whole)
    wider = kernels((5, 6), (6, 5), (5, 5))
    with pytest.raises(PruningError, match=r"layer 'a' has shape \(5, 6\)"):
        lap_jax.measure(model, wider, x, names="abc", graph=whole)


def test_nan_is_refused_where_it_comes_in() -> None:
    params, model = residual(1)
    x = jnp.ones((3, 5)).at[1, 2].set(jnp.nan)
    graph = lap_jax.trace(model, params, x)
    with pytest.raises(
        PruningError, match="measured input of layer 'stem' is NaN or infinite in 1"
    ):
        lap_jax.measure(model, params, x, graph=graph)
    params["b0"]["kernel"] = params["b0"]["kernel"].at[0, 0].set(jnp.inf)
    with pytest.raises(PruningError, match="input of layer 'head' is NaN or infinite"):
        lap_jax.measure(model, params, jnp.ones((3, 5)), graph=graph)

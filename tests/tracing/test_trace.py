"""What a model may be, and what is refused."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lap_jax
from lap_jax import PruningError
from tests.tracing.small import Normed, kernels, w


def test_batch_statistics_are_refused() -> None:
    x = jnp.ones((2, 4, 4, 3))
    variables = jax.eval_shape(Normed().init, jax.random.key(0), x)
    apply = lambda v, x: Normed().apply(v, x, train=True, mutable=["batch_stats"])  # noqa: E731
    with pytest.raises(PruningError, match="'BatchNorm_0' does not use its running variance"):
        lap_jax.trace(apply, variables, x)


def test_batch_norms_that_are_not_called_are_let_be() -> None:
    x = jnp.ones((2, 4, 4, 3))
    variables = jax.eval_shape(Normed().init, jax.random.key(0), x)

    def stem(variables: Any, x: jax.Array) -> Any:
        return nn.Conv(6, (3, 3)).apply({"params": variables["params"]["Conv_0"]}, x)

    assert lap_jax.trace(stem, variables, x).names == ("Conv_0",)


def test_an_nnx_module_is_one_call() -> None:
    class Model(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.first = nnx.Linear(4, 6, rngs=rngs)
            self.norm = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)
            self.second = nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.second(nnx.relu(self.norm(self.first(x))))

    model = Model()
    state = nnx.state(model)
    graph = lap_jax.trace(model, state, jnp.ones((2, 4)))
    assert graph.names == ("first", "second")
    assert graph["first"].factors == lap_jax.Norm("norm").factors
    params = nnx.state(model, nnx.Param)
    found = lap_jax.lookahead_masks(params, graph, 0.5, batch_stats=nnx.state(model, nnx.BatchStat))
    declared = lap_jax.lookahead_masks(
        params, ["first", "norm", "second"], 0.5, batch_stats=nnx.state(model, nnx.BatchStat)
    )
    jax.tree.map(np.testing.assert_array_equal, found, declared)


def test_shapes_are_enough() -> None:
    params = kernels((5, 4), (4, 2))
    model = lambda p, x: jax.nn.relu(x @ w(p, "a")) @ w(p, "b")  # noqa: E731
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    graph = lap_jax.trace(model, shapes, jax.ShapeDtypeStruct((3, 5), jnp.float32))
    assert graph == lap_jax.trace(model, params, jnp.ones((3, 5)))
    assert hash(graph) == hash(lap_jax.trace(model, params, jnp.ones((3, 5))))


def test_no_kernel_is_an_error() -> None:
    with pytest.raises(PruningError, match="reads no kernel"):
        lap_jax.trace(lambda p, x: x + p["bias"], {"bias": jnp.ones(3)}, jnp.ones(3))


def test_kernels_that_are_all_unread_are_told_with_the_reasons() -> None:
    params = {f"w{i}": jnp.ones((3, 3)) for i in range(5)}
    with pytest.raises(PruningError, match=r"w0 of shape \(3, 3\).*multiplied.*w2.*; and 2 more"):
        lap_jax.trace(lambda p, x: sum(x @ (p[w] * x) for w in p), params, jnp.ones((3, 3)))

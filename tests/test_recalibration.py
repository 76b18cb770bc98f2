"""Statistics of batch norms over batches, against those of all examples at once."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lap_jax


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for width in (4, 3):
            norm = nn.BatchNorm(use_running_average=not train, momentum=0.7)
            x = nn.relu(norm(nn.Dense(width)(x)))
        return x


X = jnp.asarray(np.random.default_rng(0).normal(1, 2, (60, 5)), jnp.float32)


def test_statistics_are_those_of_all_examples() -> None:
    net = Net()
    variables = net.init(jax.random.key(0), X)
    found = lap_jax.recalibrate(net, variables, [X[:20], X[20:40], (X[40:],)], train=True)
    hidden = X @ variables["params"]["Dense_0"]["kernel"] + variables["params"]["Dense_0"]["bias"]
    first = found["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(first["mean"], hidden.mean(0), rtol=1e-5)
    np.testing.assert_allclose(first["var"], hidden.var(0), rtol=1e-5)
    whole = lap_jax.recalibrate(net.apply, variables, [X], train=True)
    own, _ = net.apply(variables, X, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(np.asarray(net.apply(whole, X)), own, rtol=1e-4, atol=1e-5)
    assert whole["params"] is variables["params"]


def test_nnx_modules_hold_their_statistics() -> None:
    class Module(nnx.Module):
        def __init__(self) -> None:
            self.norm = nnx.BatchNorm(5, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.norm(x)

    module = Module()
    state = lap_jax.recalibrate(module, [X[:30], X[30:]])
    np.testing.assert_allclose(state["norm"]["mean"][...], X.mean(0), rtol=1e-5)
    np.testing.assert_allclose(state["norm"]["var"][...], X.var(0), rtol=1e-5)
    np.testing.assert_array_equal(module.norm.mean[...], 0)  # the module itself is as it was
    nnx.update(module, state)
    module.eval()
    np.testing.assert_allclose(module(X).std(0), 1, rtol=1e-4)


def test_errors_are_for_people() -> None:
    net = Net()
    variables: Any = net.init(jax.random.key(0), X)
    with pytest.raises(lap_jax.PruningError, match=r"leaves its statistics as they are: .*train"):
        lap_jax.recalibrate(net, variables, [X])
    with pytest.raises(lap_jax.PruningError, match="there are no batches"):
        lap_jax.recalibrate(net, variables, [], train=True)
    with pytest.raises(lap_jax.PruningError, match="no statistics of batch norms"):
        lap_jax.recalibrate(net, {"params": variables["params"]}, [X], train=True)
    with pytest.raises(lap_jax.PruningError, match="variables are list"):
        lap_jax.recalibrate(net, [], [X])

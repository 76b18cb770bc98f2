"""Repaired networks against the dense ones, channel by channel, and what it does to errors."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.datasets import load_digits

import lap_jax
from tests import zoo
from tests.shrinking.held import normal

X = normal(60, 5)


def layers(p: Any, x: jax.Array) -> list[jax.Array]:
    """What three layers give, before their activations; the second has no bias."""
    first = x @ p["a"]["kernel"] + p["a"]["bias"]
    second = jnp.tanh(first) @ p["b"]["kernel"]
    return [first, second, jnp.tanh(second) @ p["c"]["kernel"] + p["c"]["bias"]]


def test_means_and_spreads_are_those_of_the_dense_network() -> None:
    params: Any = {
        "a": {"kernel": normal(5, 6), "bias": normal(6)},
        "b": {"kernel": normal(6, 4)},
        "c": {"kernel": normal(4, 3), "bias": normal(3)},
    }
    masks: Any = jax.tree.map(lambda leaf: normal(*leaf.shape, seed=1) > -0.2, params)
    masks["a"]["kernel"] = (
        masks["a"]["kernel"].at[:, :2].set(False)
    )  # of two outputs nothing is left
    masks["a"]["bias"] = jnp.arange(6) != 1  # and of one of these no bias
    masks["c"]["bias"] = jnp.ones(3, bool)
    repaired: Any = lap_jax.repair(layers, params, masks, X)
    for (path, mask), leaf in zip(
        jax.tree_util.tree_leaves_with_path(masks), jax.tree.leaves(repaired), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(leaf)[~np.asarray(mask)], 0, str(path))
    dense, found = layers(params, X), layers(repaired, X)
    varies = np.arange(6) > 1
    np.testing.assert_allclose(found[0].std(0), np.where(varies, dense[0].std(0), 0), 1e-5, 1e-6)
    has_bias = np.arange(6) != 1
    np.testing.assert_allclose(
        found[0].mean(0), np.where(has_bias, dense[0].mean(0), 0), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(found[1].std(0), dense[1].std(0), rtol=1e-5)
    np.testing.assert_allclose(found[2].std(0), dense[2].std(0), rtol=1e-5)
    np.testing.assert_allclose(found[2].mean(0), dense[2].mean(0), rtol=1e-4, atol=1e-5)
    masked = lap_jax.apply_masks(params, masks)
    scale = layers(params, X)[0].std(0) / layers(masked, X)[0].std(0).at[:2].set(1)
    np.testing.assert_allclose(
        repaired["a"]["kernel"], masked["a"]["kernel"] * scale, rtol=1e-5, atol=1e-7
    )
    everything = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
    same = lap_jax.repair(layers, params, everything, X)
    chex.assert_trees_all_close(same, params, rtol=1e-6)


def test_shifts_go_into_the_running_mean_of_a_batch_norm() -> None:
    class Net(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.conv = nnx.Conv(2, 4, (3, 3), use_bias=False, rngs=rngs)
            self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.norm(self.conv(x))

    net, x = Net(), normal(10, 6, 6, 2) + 1
    net.norm.mean[...], net.norm.var[...] = normal(4), normal(4) ** 2
    masks = {"conv": {"kernel": normal(3, 3, 2, 4, seed=1) > 0}}
    repaired = lap_jax.repair(net, masks, x)
    np.testing.assert_array_equal(repaired["norm"]["var"][...], net.norm.var[...])
    dense, found = net(x), nnx.merge(nnx.graphdef(net), repaired)(x)
    axes = (0, 1, 2)
    np.testing.assert_allclose(found.mean(axes), dense.mean(axes), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.std(axes), dense.std(axes), rtol=1e-5)


def test_what_cannot_be_scaled_is_not() -> None:
    """A tied table, a kernel that is standardised, a bias that two layers share; a stack is."""
    params: Any = {
        "tied": normal(7, 5), "normed": {"kernel": normal(5, 5), "bias": normal(5)},
        "stack": normal(2, 5, 5), "shared": normal(5),
    }  # fmt: skip

    def model(p: Any, tokens: jax.Array) -> jax.Array:
        kernel = p["normed"]["kernel"]
        h = p["tied"][tokens] @ (kernel / jnp.linalg.norm(kernel, axis=0)) + p["normed"]["bias"]
        h, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w + p["shared"]), None), h, p["stack"])
        return h @ p["tied"].T

    masks = {**jax.tree.map(lambda leaf: normal(*leaf.shape, seed=1) > -0.5, params)}
    masks["shared"] = masks["normed"]["bias"] = None
    masked = lap_jax.apply_masks(params, masks)
    repaired = lap_jax.repair(model, params, masks, jnp.arange(30).reshape(6, 5) % 7)
    np.testing.assert_array_equal(repaired["tied"], masked["tied"])
    np.testing.assert_array_equal(repaired["shared"], masked["shared"])
    np.testing.assert_array_equal(repaired["normed"]["kernel"], masked["normed"]["kernel"])
    assert (repaired["normed"]["bias"] != params["normed"]["bias"]).all()
    scale = repaired["stack"] / jnp.where(masks["stack"], params["stack"], jnp.nan)
    assert jnp.nanstd(scale, 1).max() < 1e-5 < jnp.nanstd(scale, 2).min()
    params["stack"] = params["stack"].at[1, 2, 3].set(jnp.inf)
    with pytest.raises(lap_jax.PruningError, match=r"what layer 'stack\[1\]' gives is NaN"):
        lap_jax.repair(model, params, masks, jnp.arange(30).reshape(6, 5) % 7)


def test_parameters_alone_come_back_as_parameters_alone() -> None:
    net = zoo.MLP((4, 3))
    params = net.init(jax.random.key(0), X)["params"]
    masks = jax.tree.map(lambda leaf: normal(*leaf.shape, seed=1) > 0, params)
    bare = lap_jax.repair(net, params, masks, X)
    chex.assert_trees_all_equal_structs(bare, params)
    whole = lap_jax.repair(net, {"params": params}, {"params": masks}, X)
    chex.assert_trees_all_equal(whole, {"params": bare})


def test_errors_on_digits_fall() -> None:
    """Of a net that was trained, at 90% sparsity, and no training since."""
    images, labels = load_digits(return_X_y=True)
    x, y = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    net, optimizer = zoo.MLP((128, 128, 128, 10)), optax.adam(3e-3)
    params = net.init(jax.random.key(0), x[:1])

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, state = carry
        batch = jax.random.randint(key, (64,), 0, 1200)

        def loss(params: Any) -> jax.Array:
            logits = jnp.asarray(net.apply(params, x[batch]))
            return optax.softmax_cross_entropy_with_integer_labels(logits, y[batch]).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    carry = params, optimizer.init(params)
    keys = jax.random.split(jax.random.key(1), 400)
    params = jax.jit(lambda carry: jax.lax.scan(step, carry, keys)[0])(carry)[0]
    masks = lap_jax.lookahead_masks(params, [f"Dense_{i}" for i in range(4)], 0.9)

    def error(params: Any) -> float:
        logits = jnp.asarray(net.apply(params, x[1200:]))
        return float((logits.argmax(-1) != y[1200:]).mean())

    masked = lap_jax.apply_masks(params, masks)
    repaired = lap_jax.repair(net, params, masks, x[:200])
    assert error(params) < 0.1
    assert error(masked) > 0.4
    assert error(repaired) < 0.2

"""What the convolutional networks are made of, each part against a closed form."""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike

from experiments.networks.parts import batch_norm, conv3x3, dense, halve

KEY = jax.random.key(0)


def test_kernels_are_glorot_normal_with_tails_and_biases_are_zero() -> None:
    params = conv3x3(32).init(KEY, jnp.zeros((1, 4, 4, 64)))["params"]
    kernel = np.asarray(params["kernel"])
    assert kernel.std() == pytest.approx(math.sqrt(2 / (9 * (64 + 32))), rel=0.02)
    # Of 18,432 normal numbers 0.27% lie beyond three standard deviations: 50 +- 7.
    assert 20 < (abs(kernel) > 3 * kernel.std()).sum() < 80
    last = dense(200).init(KEY, jnp.zeros((1, 100)))["params"]
    assert np.std(last["kernel"]) == pytest.approx(math.sqrt(2 / (100 + 200)), rel=0.02)
    chex.assert_trees_all_equal(
        (params["bias"], last["bias"]), (np.zeros(32, np.float32), np.zeros(200, np.float32))
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_windows_are_centred_at_every_stride(stride: int) -> None:
    conv = conv3x3(1, strides=(stride, stride))
    x = jax.random.normal(KEY, (2, 6, 4, 1))
    delta = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1)
    out = conv.apply({"params": {"kernel": delta, "bias": jnp.zeros(1)}}, x)
    chex.assert_trees_all_equal(out, x[:, ::stride, ::stride])


def test_a_batch_norm_keeps_its_statistics_as_pytorch_does() -> None:
    x = 3 + 2 * jax.random.normal(KEY, (50, 4))
    norm = batch_norm(True, jnp.float32)
    variables = norm.init(KEY, x)
    out, changed = norm.apply(variables, x, mutable=["batch_stats"])
    mean, var = x.mean(0), x.var(0)
    wanted = {"mean": 0.1 * mean, "var": 0.9 + 0.1 * var}
    chex.assert_trees_all_close(out, (x - mean) / jnp.sqrt(var + 1e-5), rtol=1e-3, atol=1e-4)
    chex.assert_trees_all_close(dict(changed["batch_stats"]), wanted, rtol=1e-4)
    out = batch_norm(False, jnp.float32).apply(variables, x)
    chex.assert_trees_all_close(out, x / math.sqrt(1 + 1e-5), rtol=1e-5)


def test_halving_keeps_the_largest_of_four() -> None:
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 3)).astype(np.float32)
    wanted = x.reshape(2, 3, 2, 2, 2, 3).max((2, 4))
    chex.assert_trees_all_equal(halve(jnp.asarray(x)), wanted)


@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (2, 5, 7, 3)], ids=["even", "odd"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("levels", [2, 1000], ids=["ties", "no ties"])
def test_halving_has_the_gradient_of_max_pooling(
    shape: tuple[int, ...], dtype: DTypeLike, levels: int
) -> None:
    x = jax.random.randint(KEY, shape, 0, levels).astype(dtype)
    cotangent = jax.random.normal(jax.random.key(1), halve(x).shape, dtype)

    def pool(x: jax.Array) -> jax.Array:
        return nn.max_pool(x, (2, 2), strides=(2, 2))

    (out, back), (wanted, wanted_back) = jax.vjp(halve, x), jax.vjp(pool, x)
    chex.assert_trees_all_equal(out, wanted)
    chex.assert_trees_all_equal(back(cotangent), wanted_back(cotangent))
    chex.assert_trees_all_equal(jax.jit(jax.vmap(halve))(x[None]), wanted[None])


def test_halving_hides_no_nan() -> None:
    windows = [x for i in range(4) for x in np.where(np.arange(4) == i, np.nan, [1.0, 2, 3, 0])]
    x = jnp.asarray(windows).reshape(4, 2, 2, 1)
    assert jnp.isnan(halve(x)).all()

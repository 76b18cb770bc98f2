"""Networks of dense layers: products of matrices, and how their kernels start."""

import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.networks.perceptron import SETTINGS, Perceptron, linear


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def layers(*widths: int) -> dict[str, dict[str, np.ndarray]]:
    """Random kernels and biases."""
    return {
        f"Dense_{i}": {"kernel": noise(*sizes), "bias": noise(sizes[1])}
        for i, sizes in enumerate(itertools.pairwise(widths))
    }


def test_the_outputs_are_those_of_matrix_products() -> None:
    x, params = noise(4, 2, 3, 1), layers(6, 7, 5, 3)
    wanted = x.reshape(4, 6)
    for i, layer in enumerate(params.values()):
        wanted = wanted @ layer["kernel"] + layer["bias"]
        wanted = np.tanh(wanted) if i < 2 else wanted
    found = Perceptron((7, 5), 3, jnp.tanh).apply({"params": params}, x)
    chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_linear_network_is_one_matrix() -> None:
    x, params = noise(3, 4, 4, 1), layers(16, 1000, 10)
    first, last = params.values()
    matrix = first["kernel"] @ last["kernel"]
    wanted = x.reshape(3, 16) @ matrix + first["bias"] @ last["kernel"] + last["bias"]
    found = linear(10, SETTINGS["linear"].activation).apply({"params": params}, x)
    chex.assert_trees_all_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_kernels_are_cut_off_at_two_standard_deviations() -> None:
    network = Perceptron((300,), 10, jnp.tanh)
    params = jax.jit(network.init)(jax.random.key(0, impl="rbg"), jnp.zeros((1, 400)))["params"]
    kernel = np.asarray(params["Dense_0"]["kernel"])
    assert kernel.std() == pytest.approx(math.sqrt(2 / (400 + 300)), rel=0.01)
    # What is cut off was of a wider normal distribution: so that the rest has this deviation.
    wider = kernel.std() / 0.87962566
    assert abs(kernel).max() == pytest.approx(2 * wider, rel=0.01)
    biases = [params[f"Dense_{i}"]["bias"] for i in range(2)]
    chex.assert_trees_all_equal(biases, jax.tree.map(jnp.zeros_like, biases))

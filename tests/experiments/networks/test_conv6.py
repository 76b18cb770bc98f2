"""Conv-6: the weights of its convolutions, and what it computes, by plain loops."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.networks.conv6 import CHAIN, Conv6, build


def test_half_of_its_weights_are_in_convolutions() -> None:
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(build(10, "relu").init, jax.random.key(0), images)["params"]
    assert set(params) == set(CHAIN)
    convolutions = [params[name]["kernel"] for name in CHAIN if name.startswith("Conv")]
    assert sum(math.prod(kernel.shape) for kernel in convolutions) == 1_144_512


def _convolved(x: np.ndarray, layer: Any) -> np.ndarray:
    """A 3x3 window around every pixel, with zeros beyond the border."""
    height, width, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    return np.array(
        [
            [np.tensordot(padded[i : i + 3, j : j + 3], layer["kernel"], 3) for j in range(width)]
            for i in range(height)
        ]
    ) + np.asarray(layer["bias"])


def test_its_outputs_are_those_of_plain_loops() -> None:
    network = Conv6(3, widths=(2, 3), hidden=(4,))
    image = np.random.default_rng(0).normal(size=(8, 4, 2)).astype(np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image[None])["params"]
    rng = np.random.default_rng(1)
    params: Any = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f4"), shapes)
    x = image
    for pair in (0, 1):
        for i in (0, 1):
            x = np.maximum(_convolved(x, params[f"Conv_{2 * pair + i}"]), 0)
        height, width, channels = x.shape
        x = x.reshape(height // 2, 2, width // 2, 2, channels).max((1, 3))
    hidden, last = params["Dense_0"], params["Dense_1"]
    x = np.maximum(x.ravel() @ hidden["kernel"] + hidden["bias"], 0)
    wanted = x @ last["kernel"] + last["bias"]
    found = network.apply({"params": params}, image[None])
    chex.assert_trees_all_close(found, wanted[None], rtol=1e-4, atol=1e-4)


def test_every_layer_may_have_a_width_of_its_own() -> None:
    network = Conv6(3, widths=(2, 3), hidden=(4,)).with_widths((5, 6, 7, 8, 9))
    params = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 8, 4, 2)))["params"]
    assert [params[f"Conv_{i}"]["kernel"].shape[-1] for i in range(4)] == [5, 6, 7, 8]
    assert params["Dense_0"]["kernel"].shape == (2 * 1 * 8, 9)
    assert network.widths_in(params) == (5, 6, 7, 8, 9)
    with pytest.raises(ValueError, match="4 widths, where the network has 5"):
        network.with_widths((5, 6, 7, 8))

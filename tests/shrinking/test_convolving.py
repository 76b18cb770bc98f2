"""Convolutions: channels, groups, and constant channels beside a padding."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lap_jax
from tests.shrinking.held import ALL, held, normal

IMAGE = normal(2, 5, 5, 3)


def convolve(x: jax.Array, kernel: jax.Array, padding: str = "SAME", **options: Any) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_a_constant_channel_gives_less_at_the_border(padding: str) -> None:
    """A dead channel with a bias gives a number; padded, less of it arrives at the border."""
    params = {
        "a": normal(3, 3, 3, 4, zero=((ALL, ALL, ALL, [1, 2]),)),
        "bias": normal(4),
        "b": normal(3, 3, 4, 2),
    }

    def model(p: Any, x: jax.Array) -> jax.Array:
        return convolve(jnp.cos(convolve(x, p["a"]) + p["bias"]), p["b"], padding)

    held(model, params, IMAGE, {"a": (3, 3, 3, 2), "bias": (2,), "b": (3, 3, 2, 2)})


@pytest.mark.parametrize(("groups", "outputs"), [(4, 4), (4, 8), (2, 4)])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_a_constant_channel_of_a_group_is_counted_once(
    padding: str, groups: int, outputs: int
) -> None:
    """What a group takes because another does is computed, constant or not; no image has it."""
    params = {
        "a": normal(3, 3, 3, 4, zero=((ALL, ALL, ALL, [1]),)),
        "bias": normal(4) + 2,
        "b": normal(3, 3, 4 // groups, outputs),
    }

    def model(p: Any, x: jax.Array) -> jax.Array:
        hidden = jnp.cos(convolve(x, p["a"]) + p["bias"])
        return convolve(hidden, p["b"], padding, feature_group_count=groups)

    small = lap_jax.shrink(model, params, None, IMAGE)
    np.testing.assert_allclose(
        small.apply(small.variables, IMAGE), model(params, IMAGE), rtol=1e-4, atol=1e-5
    )
    assert small.variables["a"].shape == (3, 3, 3, 3)


def test_all_channels_constant_leave_an_image() -> None:
    params = {"a": jnp.zeros((3, 3, 3, 2)), "bias": normal(2), "b": normal(3, 3, 2, 4)}

    def model(p: Any, x: jax.Array) -> jax.Array:
        return convolve(convolve(x, p["a"]) + p["bias"], p["b"])

    held(model, params, IMAGE, {"a": (0, 0, 0, 0), "bias": (0,), "b": (0, 0, 0, 0)})


@pytest.mark.parametrize("groups", [2, 6])
def test_groups_and_depthwise(groups: int) -> None:
    """Groups stay as wide as the widest; a channel of a depthwise convolution goes alone."""
    kernel = normal(3, 3, 6 // groups, 6)
    params = {
        "a": normal(1, 1, 3, 6, zero=((ALL, ALL, ALL, [0, 1, 2, 4]),)),
        "b": kernel,
        "c": normal(1, 1, 6, 2),
    }

    def model(p: Any, x: jax.Array) -> jax.Array:
        y = convolve(jnp.sin(convolve(x, p["a"])), p["b"], feature_group_count=groups)
        return convolve(y, p["c"])

    shapes = {
        2: {"a": (1, 1, 3, 2), "b": (3, 3, 2, 3), "c": (1, 1, 3, 2)},
        6: {"a": (1, 1, 3, 2), "b": (3, 3, 1, 2), "c": (1, 1, 2, 2)},
    }
    held(model, params, IMAGE, shapes[groups])


def test_flattened_into_a_dense_layer_behind_a_pool() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3), (2, 2))(x))
            x = nn.max_pool(nn.relu(x), (2, 2), (1, 1))
            x = nn.ConvTranspose(3, (3, 3))(nn.avg_pool(x, (2, 2), (1, 1), "SAME"))
            return nn.Dense(2)(x.reshape(len(x), -1))

    net = Net()
    variables = net.init(jax.random.key(0), IMAGE)
    params = dict(variables["params"])
    for name, place in (("Conv_0", np.array([0, 2])), ("ConvTranspose_0", np.array([1]))):
        part = params[name]
        params[name] = {
            "kernel": part["kernel"].at[..., place].set(0),
            "bias": part["bias"].at[place].set(0),
        }
    small = held(lambda v, x: net.apply(v, x), {**variables, "params": params}, IMAGE)
    left = small.variables["params"]
    assert left["Conv_0"]["kernel"].shape == (3, 3, 3, 2)
    assert left["ConvTranspose_0"]["kernel"].shape == (3, 3, 2, 2)
    assert left["Dense_0"]["kernel"].shape == (2 * 2 * 2, 2)
    assert small.variables["batch_stats"]["BatchNorm_0"]["mean"].shape == (2,)


def test_the_batch_may_go_into_the_features() -> None:
    """Of a kernel that depends on the inputs nothing is known: at full size, and right."""
    params = {"a": normal(3, 4, zero=((ALL, 1),))}

    def model(p: Any, x: jax.Array) -> jax.Array:
        kernel = (x[:1, :1, :1] @ p["a"]).reshape(1, 1, 1, 4) * jnp.ones((2, 2, 3, 1))
        return convolve(x, kernel)

    assert held(model, params, IMAGE).variables["a"].shape == (3, 4 - 1)

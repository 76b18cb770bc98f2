"""Multiply-adds counted by hand: kernel size times output positions, image sides in brackets."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

import lap_jax
from experiments.networks import PAPER_MODELS
from experiments.running.costs import multiply_adds, positions

# 9 * in * out * side**2 of every convolution, plus the dense layers.
CONV6 = (
    9 * (3 * 64 + 64 * 64) * 32**2
    + 9 * (64 * 128 + 128 * 128) * 16**2
    + 9 * (128 * 256 + 256 * 256) * 8**2
    + (4096 * 256 + 256 * 256 + 256 * 10)
)
VGG19 = (
    9 * (3 * 64 + 64 * 64) * 32**2
    + 9 * (64 * 128 + 128 * 128) * 16**2
    + 9 * (128 * 256 + 3 * 256 * 256) * 8**2
    + 9 * (256 * 512 + 3 * 512 * 512) * 4**2
    + 9 * 4 * 512 * 512 * 2**2
    + 512 * 10
)
RESNET18 = (
    9 * (3 * 64 + 4 * 64 * 64) * 32**2
    + 9 * (64 * 128 + 3 * 128 * 128) * 16**2
    + 9 * (128 * 256 + 3 * 256 * 256) * 8**2
    + 9 * (256 * 512 + 3 * 512 * 512) * 4**2
    + 512 * 10
)


def _graph(module: nn.Module, chain: Sequence[Any], shape: tuple[int, ...]) -> lap_jax.Graph:
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape)))
    return lap_jax.chain(variables["params"], chain, variables.get("batch_stats"))


@pytest.mark.parametrize(
    ("model", "shape", "wanted"),
    [
        ("fcn", (28, 28, 1), 1_147_000),
        ("linear", (28, 28, 1), 794_000),
        ("conv6", (32, 32, 3), CONV6),
        ("vgg19", (32, 32, 3), VGG19),
        ("resnet18", (32, 32, 3), RESNET18),
    ],
)
def test_multiply_adds_of_the_whole_network(
    model: str, shape: tuple[int, ...], wanted: int
) -> None:
    setting = PAPER_MODELS[model]
    module = setting.build(10, setting.activation)
    graph = _graph(module, setting.chain, shape)
    found = positions(module, shape, graph)
    assert tuple(found) == graph.names
    assert multiply_adds(found, {layer.name: layer.size for layer in graph.layers}) == wanted


def test_hand_computed_numbers() -> None:
    assert CONV6 == 153_881_088
    assert VGG19 == 398_136_320
    # With the 1x1 shortcuts, 3 * 64 * 128 * 16**2, it is the 0.56 G that is quoted for ResNet-18.
    assert RESNET18 == 549_131_264
    assert RESNET18 + 3 * 64 * 128 * 16**2 == 555_422_720


def test_positions_follow_strides_pooling_and_the_size_of_the_image() -> None:
    setting = PAPER_MODELS["resnet18"]
    module = setting.build(10, "relu")
    found = positions(module, (48, 32, 3), _graph(module, setting.chain, (48, 32, 3)))
    assert found["Conv_0"] == found["Block_1/Conv_1"] == 48 * 32
    assert found["Block_2/Conv_0"] == found["Block_3/Conv_1"] == 24 * 16
    assert found["Block_7/Conv_1"] == 6 * 4
    assert found["Dense_0"] == 1


def test_a_layer_that_is_used_twice_counts_twice() -> None:
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
            conv = nn.Conv(3, (3, 3), name="conv")
            return conv(conv(x)).sum((1, 2))

    graph = _graph(Twice(), ["conv"], (5, 4, 3))
    assert positions(Twice(), (5, 4, 3), graph) == {"conv": 2 * 5 * 4}


def test_only_the_weights_that_are_kept_count() -> None:
    assert multiply_adds({"a": 10, "b": 1}, {"a": 3, "b": 7}) == 37

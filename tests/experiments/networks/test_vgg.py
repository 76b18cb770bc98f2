"""VGG: its depths, and where its biases count for nothing."""

import chex
import jax
import jax.numpy as jnp
import pytest

from experiments.networks.vgg import SETTINGS, VGG, VGG11, VGG16, VGG19, WIDTHS

KEY = jax.random.key(0, impl="rbg")


@pytest.mark.parametrize(
    ("name", "depths", "layers"),
    [("vgg11", VGG11, 9), ("vgg16", VGG16, 14), ("vgg19", VGG19, 17)],
)
def test_widths_double_and_every_one_halves_the_image(
    name: str, depths: tuple[int, ...], layers: int
) -> None:
    chain = SETTINGS[name].chain
    assert sum(not layer.startswith("BatchNorm") for layer in chain) == layers == sum(depths) + 1
    module = SETTINGS[name].build(10, "relu")
    params = jax.eval_shape(module.init, KEY, jnp.zeros((1, 32, 32, 3)))["params"]
    outputs = [width for width, depth in zip(WIDTHS, depths, strict=True) for _ in range(depth)]
    inputs = [3, *outputs[:-1]]
    for i, (fan_in, fan_out) in enumerate(zip(inputs, outputs, strict=True)):
        chex.assert_shape(params[f"Conv_{i}"]["kernel"], (3, 3, fan_in, fan_out))
    # 32 / 2^5: one pixel is left for the dense layer.
    chex.assert_shape(params["Dense_0"]["kernel"], (512, 10))


def test_a_bias_before_a_batch_norm_changes_nothing() -> None:
    network = VGG((1, 2), 3, widths=(4, 5))
    x = jax.random.normal(KEY, (6, 8, 8, 3))
    variables = network.init(KEY, x)
    params = {
        name: {**layer, "bias": layer["bias"] + 2} if name.startswith("Conv") else layer
        for name, layer in variables["params"].items()
    }
    before, after = (
        network.apply({**variables, "params": each}, x, True, mutable=["batch_stats"])[0]
        for each in (variables["params"], params)
    )
    chex.assert_trees_all_close(after, before, rtol=1e-3, atol=1e-4)


def test_a_width_needs_its_depth() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        VGG((1, 1), 10).init(KEY, jnp.zeros((1, 32, 32, 3)))


def test_every_convolution_may_have_a_width_of_its_own() -> None:
    network = VGG((1, 2), 3, widths=(4, 5)).with_widths((2, 3, 7))
    params = jax.eval_shape(network.init, KEY, jnp.zeros((1, 8, 8, 3)))["params"]
    assert [params[f"Conv_{i}"]["kernel"].shape[-1] for i in range(3)] == [2, 3, 7]
    assert network.widths_in(params) == (2, 3, 7)
    with pytest.raises(ValueError, match="2 widths, where the network has 3"):
        network.with_widths((2, 3))

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from experiments.networks.parts import conv3x3
from experiments.networks.resnet import Block
from experiments.running.convolving import as_products

PLAIN: dict[str, Any] = {"features": 5, "kernel_size": (3, 3), "padding": 1}


class Stage(nn.Module):
    """The start of the last stage of a ResNet for images of 16 x 16."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return Block(4, 2, nn.relu, jnp.float32)(x, False)


def both(module: nn.Module, x: jax.Array) -> tuple[Any, Any, str]:
    """Outputs and gradients as written and intercepted, and the program of the second."""
    variables = module.init(jax.random.key(1), x)

    def loss(variables: Any, x: jax.Array) -> Any:
        y: Any = module.apply(variables, x)
        return jnp.sin(3 * y.astype(jnp.float32)).sum(), y

    def run() -> Any:
        # A new function each time: what was compiled without the interceptor is not to come back.
        return jax.jit(lambda *both: jax.value_and_grad(loss, (0, 1), has_aux=True)(*both))(
            variables, x
        )

    plain = run()
    with nn.intercept_methods(as_products):
        return plain, run(), str(jax.make_jaxpr(module.apply)(variables, x))


@pytest.mark.parametrize("use_bias", [True, False])
def test_outputs_and_gradients_are_those_of_the_convolution(use_bias: bool) -> None:
    x = jax.random.normal(jax.random.key(0), (7, 2, 2, 3))
    plain, products, program = both(conv3x3(5, use_bias=use_bias), x)
    chex.assert_trees_all_close(plain, products, rtol=1e-5, atol=1e-5)
    assert "conv_general_dilated" not in program


def test_bfloat16_stays_bfloat16() -> None:
    x = jax.random.normal(jax.random.key(0), (7, 2, 2, 3))
    plain, products, _ = both(conv3x3(5, dtype=jnp.bfloat16), x)
    chex.assert_trees_all_equal_shapes_and_dtypes(plain, products)
    chex.assert_trees_all_close(plain[0][1], products[0][1], rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("other", "shape"),
    [
        ({}, (7, 4, 4, 4)),
        ({}, (7, 1, 2, 4)),
        ({}, (2, 2, 4)),
        ({"strides": (2, 2)}, (7, 2, 2, 4)),
        ({"padding": "VALID", "kernel_size": (1, 1)}, (7, 2, 2, 4)),
        ({"kernel_size": (5, 5), "padding": 2}, (7, 2, 2, 4)),
        ({"padding": "SAME"}, (7, 2, 2, 4)),
        ({"feature_group_count": 2, "features": 6}, (7, 2, 2, 4)),
        ({"kernel_dilation": (2, 2), "padding": 2}, (7, 2, 2, 4)),
        ({"mask": jnp.ones((3, 3, 4, 5))}, (7, 2, 2, 4)),
    ],
    ids=str,
)
def test_every_other_convolution_is_computed_as_it_is_written(
    other: dict[str, Any], shape: tuple[int, ...]
) -> None:
    x = jax.random.normal(jax.random.key(0), shape)
    plain, same, program = both(nn.Conv(**(PLAIN | other)), x)
    chex.assert_trees_all_equal(plain, same)
    assert "conv_general_dilated" in program


def test_a_residual_block_gives_the_same() -> None:
    x = jax.random.normal(jax.random.key(0), (6, 4, 4, 3))
    plain, products, program = both(Stage(), x)
    chex.assert_trees_all_close(plain, products, rtol=1e-4, atol=1e-4)
    # Three convolutions, one of them of a map of 2 x 2.
    assert program.count("conv_general_dilated[") == 2

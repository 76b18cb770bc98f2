import math

import jax
import jax.numpy as jnp

from experiments.networks.vit import ViT


def test_vision_transformer_has_its_weights() -> None:
    """By hand: 48 64 + 64 patches, 16 64 positions, and in each of four blocks four times 64^2 +
    64, twice 256 64, 256 + 64 and two norms; a last norm; 64 10 + 10."""
    shapes = jax.eval_shape(ViT(10).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    block = 4 * (64**2 + 64) + 2 * 256 * 64 + 256 + 64 + 4 * 64
    wanted = 48 * 64 + 64 + 16 * 64 + 4 * block + 2 * 64 + 650
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == wanted

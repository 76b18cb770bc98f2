"""Conv-6."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from experiments.networks.parts import conv3x3, dense, halve
from experiments.networks.setting import ACTIVATIONS, of_cifar

CHAIN = (*(f"Conv_{i}" for i in range(6)), *(f"Dense_{i}" for i in range(3)))


class Conv6(nn.Module):
    """Pairs of 3x3 convolutions, each pair followed by max-pooling, then three dense layers.

    Frankle & Carbin (2019), Figure 2. No batch norm; Glorot normal kernels, zero biases.
    """

    classes: int
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    widths: Sequence[int] = (64, 128, 256)
    hidden: Sequence[int] = (256, 256)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Return logits ``[batch, classes]``; ``train`` changes nothing."""
        for width in self.widths:
            for _ in range(2):
                x = self.activation(conv3x3(width, dtype=self.dtype)(x))
            x = halve(x)
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            x = self.activation(dense(width, self.dtype)(x))
        return dense(self.classes)(x)


def build(classes: int, activation: str) -> Conv6:
    """Return the paper's network."""
    return Conv6(classes, ACTIVATIONS[activation])


SETTINGS = {
    "conv6": of_cifar("Table 2", build, CHAIN, 30_000, 20_000)._replace(
        whole=("Conv_0", "Dense_2"), side=8
    )
}

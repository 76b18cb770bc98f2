"""Conv-6."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from experiments.networks.parts import checked, conv3x3, dense, each, halve, outputs
from experiments.networks.setting import ACTIVATIONS, of_cifar

CHAIN = (*(f"Conv_{i}" for i in range(6)), *(f"Dense_{i}" for i in range(3)))


class Conv6(nn.Module):
    """Pairs of 3x3 convolutions, each pair followed by max-pooling, then three dense layers.

    Frankle & Carbin (2019), Figure 2. No batch norm; Glorot normal kernels, zero biases.

    Attributes:
      widths: of each pair of convolutions, one number for both or one each.
      hidden: of the dense layers but the last.
    """

    classes: int
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    widths: Sequence[int | Sequence[int]] = (64, 128, 256)
    hidden: Sequence[int] = (256, 256)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Return logits ``[batch, classes]``; ``train`` changes nothing."""
        for width in self.widths:
            for own in each(width, 2):
                x = self.activation(conv3x3(own, dtype=self.dtype)(x))
            x = halve(x)
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            x = self.activation(dense(width, self.dtype)(x))
        return dense(self.classes)(x)

    def with_widths(self, widths: Sequence[int]) -> Conv6:
        """Return the network with these numbers of neurons, of each convolution and dense layer."""
        count = 2 * len(self.widths)
        checked(widths, count + len(self.hidden))
        pairs = zip(widths[:count:2], widths[1:count:2], strict=True)
        return self.clone(widths=tuple(pairs), hidden=tuple(widths[count:]))

    def widths_in(self, params: Any) -> tuple[int, ...]:
        """Return how many neurons hidden layers have, as `with_widths` takes them."""
        convolutions = outputs(params, "Conv", 2 * len(self.widths))
        return convolutions + outputs(params, "Dense", len(self.hidden))


def build(classes: int, activation: str) -> Conv6:
    """Return the paper's network."""
    return Conv6(classes, ACTIVATIONS[activation])


SETTINGS = {
    "conv6": of_cifar("Table 2", build, CHAIN, 30_000, 20_000)._replace(
        whole=("Conv_0", "Dense_2"), side=8
    )
}

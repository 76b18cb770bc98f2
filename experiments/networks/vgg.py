"""VGG for CIFAR-10, with batch norms and a single dense layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from experiments.networks.parts import batch_norm, checked, conv3x3, dense, each, halve, outputs
from experiments.networks.setting import ACTIVATIONS, Setting, of_cifar

WIDTHS = (64, 128, 256, 512, 512)

# Convolutions per width: configurations A, D and E of Simonyan & Zisserman (2015), Table 1.
VGG11 = (1, 1, 2, 2, 2)
VGG16 = (2, 2, 3, 3, 3)
VGG19 = (2, 2, 4, 4, 4)


class VGG(nn.Module):
    """3x3 convolutions, each with batch norm and activation; max-pooling after every width.

    Glorot normal kernels, zero biases. A bias before a batch norm changes nothing, but the authors'
    networks have it, and so do the published numbers of parameters.

    Attributes:
      depths: number of convolutions of each of ``widths``.
      widths: of the convolutions between two poolings, one number for all of them or one each.
    """

    depths: Sequence[int]
    classes: int
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    widths: Sequence[int | Sequence[int]] = WIDTHS
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Return logits ``[batch, classes]``; the batch norms use the batch where ``train``."""
        for width, depth in zip(self.widths, self.depths, strict=True):
            for own in each(width, depth):
                x = conv3x3(own, dtype=self.dtype)(x)
                x = self.activation(batch_norm(train, self.dtype)(x))
            x = halve(x)
        return dense(self.classes)(x.reshape(x.shape[0], -1))

    def with_widths(self, widths: Sequence[int]) -> VGG:
        """Return the network with these numbers of channels, of each convolution."""
        checked(widths, sum(self.depths))
        ends = list(accumulate(self.depths, initial=0))
        return self.clone(widths=tuple(tuple(widths[a:b]) for a, b in pairwise(ends)))

    def widths_in(self, params: Any) -> tuple[int, ...]:
        """Return how many channels convolutions have, as `with_widths` takes them."""
        return outputs(params, "Conv", sum(self.depths))


def chain(depths: Sequence[int]) -> tuple[str, ...]:
    """Return the layers and norms of a VGG in order."""
    convs = (name for i in range(sum(depths)) for name in (f"Conv_{i}", f"BatchNorm_{i}"))
    return (*convs, "Dense_0")


def setting(table: str, depths: Sequence[int], train_steps: int, retrain_steps: int) -> Setting:
    """Return a VGG with its settings."""

    def build(classes: int, activation: str) -> VGG:
        return VGG(depths, classes, ACTIVATIONS[activation])

    common = of_cifar(table, build, chain(depths), train_steps, retrain_steps)
    return common._replace(whole=("Conv_0", "Dense_0"), side=32)


SETTINGS = {
    "vgg11": setting("Table 3", VGG11, 35_000, 25_000),
    "vgg16": setting("Table 4", VGG16, 50_000, 35_000),
    "vgg19": setting("Table 5", VGG19, 60_000, 40_000),
}

"""ResNet-18 for CIFAR-10, and two readings of its shortcuts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from experiments.networks.parts import GLOROT, batch_norm, conv3x3, dense
from experiments.networks.setting import ACTIVATIONS, of_cifar
from lap_jax import IDENTITY, LayerSpec

BLOCKS = 8


class Block(nn.Module):
    """``activation(norm(conv(activation(norm(conv(x))))) + shortcut(x))`` (He et al., 2016).

    The shortcut is the identity, or a 1x1 convolution with batch norm where the shape changes.
    """

    width: int
    stride: int
    activation: Callable[[jax.Array], jax.Array]
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[batch, h, w, c] -> [batch, h / stride, w / stride, width]``."""
        strides = (self.stride, self.stride)
        y = conv3x3(self.width, strides=strides, use_bias=False, dtype=self.dtype)(x)
        y = self.activation(batch_norm(train, self.dtype)(y))
        y = conv3x3(self.width, use_bias=False, dtype=self.dtype)(y)
        y = batch_norm(train, self.dtype)(y)
        if x.shape != y.shape:
            x = nn.Conv(
                self.width, (1, 1), strides, use_bias=False, kernel_init=GLOROT, dtype=self.dtype,
                name="shortcut",
            )(x)  # fmt: skip
            x = batch_norm(train, self.dtype, name="shortcut_norm")(x)
        return self.activation(x + y)


class ResNet18(nn.Module):
    """A 3x3 stem without pooling, two blocks per width, global average pooling, a dense layer.

    The first block of every width but the first halves the image. Glorot normal kernels; the
    convolutions have no biases.
    """

    classes: int
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    widths: Sequence[int] = (64, 128, 256, 512)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Return logits ``[batch, classes]``; the batch norms use the batch where ``train``."""
        x = conv3x3(self.widths[0], use_bias=False, dtype=self.dtype)(x)
        x = self.activation(batch_norm(train, self.dtype)(x))
        for stage, width in enumerate(self.widths):
            for stride in (2 if stage else 1, 1):
                x = Block(width, stride, self.activation, self.dtype)(x, train)
        return dense(self.classes)(x.mean((1, 2), dtype=jnp.float32))


def chain() -> tuple[str, ...]:
    """Return the main path in order, as if there were no shortcuts: what the paper prunes.

    The 1x1 shortcuts are neither pruned nor anyone's neighbours.
    """
    blocks = (
        f"Block_{block}/{part}_{i}"
        for block in range(BLOCKS)
        for i in range(2)
        for part in ("Conv", "BatchNorm")
    )
    return ("Conv_0", "BatchNorm_0", *blocks, "Dense_0")


def chain_identity() -> tuple[LayerSpec, ...]:
    """Return the main path with a shortcut around every block that counts as an identity.

    What writes to the stream (the stem, a block's second convolution) is read by the next block and
    passed on; what reads from it (a block's first convolution, the dense layer) reads the block
    before and what was passed by it. A 1x1 shortcut counts as an identity too: its kernel is not in
    the chain, and its batch norm keeps its scale near one.
    """
    writer = "Conv_0"
    layers = [LayerSpec(writer, "BatchNorm_0", next=IDENTITY)]
    for block in range(BLOCKS):
        first, second = (f"Block_{block}/Conv_{i}" for i in range(2))
        norms = [f"Block_{block}/BatchNorm_{i}" for i in range(2)]
        # Nothing passes by the stem and nothing passes on what the last block writes.
        sources = (writer, IDENTITY) if block else (writer,)
        onward = IDENTITY if block < BLOCKS - 1 else None
        layers.append(LayerSpec(first, norms[0], previous=sources))
        layers.append(LayerSpec(second, norms[1], next=onward))
        writer = second
    return (*layers, LayerSpec("Dense_0", previous=(writer, IDENTITY)))


def build(classes: int, activation: str) -> ResNet18:
    """Return the paper's network."""
    return ResNet18(classes, ACTIVATIONS[activation])


SETTINGS = {
    "resnet18": of_cifar("Table 6", build, chain(), 35_000, 25_000)._replace(
        unpruned=("Conv_0",), whole=("Conv_0", "Dense_0"), chain_identity=chain_identity(), side=8
    )
}

"""Networks of dense layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class Perceptron(nn.Module):
    """Dense layers on the flattened input, an activation after every layer but the last.

    Kernels are Glorot normal, cut off at two standard deviations as Flax does; biases are zero.
    """

    widths: Sequence[int]
    classes: int
    activation: Callable[[jax.Array], jax.Array]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Return logits ``[batch, classes]``; ``train`` changes nothing."""
        x = x.reshape(x.shape[0], -1)
        init = nn.initializers.glorot_normal()
        for width in self.widths:
            x = self.activation(nn.Dense(width, kernel_init=init, dtype=self.dtype)(x))
        return nn.Dense(self.classes, kernel_init=init, dtype=jnp.float32)(x)

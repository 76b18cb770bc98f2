"""What the convolutional networks are made of."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

# A whole normal distribution, as the authors use it. Flax's `glorot_normal` has no tails, and tails
# are what pruning by magnitude keeps.
GLOROT = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")

# One pixel of zeros all around at every stride, so that a 3x3 window is centred where a strided 1x1
# shortcut reads. Flax's "SAME" pads strided windows at the far border only.
conv3x3 = partial(nn.Conv, kernel_size=(3, 3), padding=1, kernel_init=GLOROT)


def dense(features: int, dtype: DTypeLike = jnp.float32) -> nn.Dense:
    """Make a dense layer; the last one of a network computes in float32, for exact logits."""
    return nn.Dense(features, kernel_init=GLOROT, dtype=dtype)


def batch_norm(train: bool, dtype: DTypeLike, name: str | None = None) -> nn.BatchNorm:
    """Make a batch norm with the momentum and epsilon of PyTorch; statistics are float32."""
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name
    )


def each(width: int | Sequence[int], depth: int) -> tuple[int, ...]:
    """Return the widths of so many layers: one number stands for all."""
    return (width,) * depth if isinstance(width, int) else tuple(width)


def checked(widths: Sequence[int], count: int) -> Sequence[int]:
    """Return widths.

    Raises:
      ValueError: if there are more or fewer than so many.
    """
    if len(widths) != count:
        raise ValueError(f"{len(widths)} widths, where the network has {count}")
    return widths


def outputs(params: Any, layer: str, count: int) -> tuple[int, ...]:
    """Return how many neurons the first ``layer_0``, ``layer_1``, ... have."""
    return tuple(params[f"{layer}_{i}"]["kernel"].shape[-1] for i in range(count))


@jax.custom_vjp
def halve(x: jax.Array) -> jax.Array:
    """Max-pool 2x2 windows: ``[batch, h, w, c] -> [batch, h / 2, w / 2, c]``.

    Its gradient is that of `flax.linen.max_pool`, to the bit: all of it to the first of a window's
    largest. XLA would scatter it, which on CPUs takes a fifth of a narrow Conv-6's step; comparing
    neighbours takes a fraction of that. Forward it stays a max-pooling, which `trace` can read,
    and which hides no NaN.
    """
    return nn.max_pool(x, (2, 2), strides=(2, 2))


def _halve_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return halve(x), x


def _halve_backward(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    return jax.vjp(lambda x: _larger(_larger(x, 2), 1), x)[1](cotangent)


def _larger(x: jax.Array, axis: int) -> jax.Array:
    """Return the larger one of each two neighbours along an axis, of equals the first."""
    both = x.shape[axis] // 2 * 2
    first = jax.lax.slice_in_dim(x, 0, both, 2, axis)
    second = jax.lax.slice_in_dim(x, 1, both, 2, axis)
    return jnp.where(first >= second, first, second)


halve.defvjp(_halve_forward, _halve_backward)

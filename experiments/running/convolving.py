"""Convolutions of maps of 2 x 2, for which CPUs have slow code only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def as_products(
    convolve: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
) -> Any:  # fmt: skip
    """Compute a 3x3 convolution of a map of 2 x 2 as one product of matrices.

    XLA's code for CPUs takes many times as long for it as for this product: more than a third of a
    narrow ResNet-18's step. For `flax.linen.intercept_methods`: everything else is computed as it
    is written. The sum is the same, rounded in another order.
    """
    conv = context.module
    if not (isinstance(conv, nn.Conv) and _is_plain(conv) and not conv.is_initializing()):
        return convolve(*args, **kwargs)
    (x,) = args
    if x.ndim != 4 or x.shape[1:3] != (2, 2):
        return convolve(*args, **kwargs)
    held = conv.variables["params"]
    found: Any = conv.promote_dtype(x, held["kernel"], held.get("bias"), dtype=conv.dtype)
    x, kernel, bias = found
    y = _patches(x) @ kernel.reshape(-1, conv.features)
    return y if bias is None else y + bias


def _is_plain(conv: nn.Conv) -> bool:
    """Return whether it is a 3x3 convolution that keeps the size, and nothing more."""
    return (
        conv.kernel_size == (3, 3)
        and conv.padding == 1
        and conv.strides in (1, None, (1, 1))
        and conv.input_dilation in (1, None)
        and conv.kernel_dilation in (1, None)
        and conv.feature_group_count == 1
        and conv.mask is None
    )


def _patches(x: jax.Array) -> jax.Array:
    """Return what each window sees: ``[batch, 2, 2, c] -> [batch, 2, 2, 9 c]``."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = [padded[:, i : i + 2, j : j + 2] for i in range(3) for j in range(3)]
    return jnp.concatenate(windows, -1)

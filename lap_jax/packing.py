"""Masks of eight weights a byte, as they may lie in an optimizer's state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lap_jax.errors import PruningError


def packed(mask: jax.Array) -> jax.Array:
    """Return a mask as bits: bool ``[..., n]`` becomes uint8 ``[..., ceil(n / 8)]``.

    Along the last axis, first entry in the highest bit, so that all other axes lie over devices as
    the mask does; the last one does where each device holds a multiple of eight. A scalar stays.
    """
    if not jnp.ndim(mask):
        return mask
    *others, size = mask.shape
    empty = (*others, -(-size // 8))  # of which JAX makes no bits
    return jnp.packbits(mask, axis=-1) if mask.size else jnp.zeros(empty, jnp.uint8)


def is_packed(mask: Any) -> bool:
    """Return whether a mask is one of `packed`'s."""
    return bool(jnp.result_type(mask) == jnp.uint8)


def unpacked(name: str, mask: Any, shape: tuple[int, ...]) -> jax.Array:
    """Return a mask, bool, of the shape of its weights; one that is not packed as it is.

    Raises:
      PruningError: with the name, if it is not one of an array of this shape.
    """
    if not is_packed(mask):
        return jnp.asarray(mask)
    if not shape or tuple(jnp.shape(mask)) != (*shape[:-1], -(-shape[-1] // 8)):
        raise PruningError(
            f"the packed mask {name!r} has shape {tuple(jnp.shape(mask))}, which is none of "
            f"parameters of shape {tuple(shape)}: pass the parameters that it was made for"
        )
    if not jnp.size(mask):
        return jnp.zeros(shape, bool)
    return jnp.unpackbits(jnp.asarray(mask), axis=-1, count=shape[-1]).astype(bool)

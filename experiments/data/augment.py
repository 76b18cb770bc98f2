"""Random crops and flips of training images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def crop_and_flip(
    key: jax.Array, images: jax.Array, fill: jax.Array, padding: int = 4
) -> jax.Array:
    """Pad each image, cut a window of its old size out at random, mirror it with probability 1/2.

    What the authors' code does to CIFAR-10 with a padding of 4. Each image has a window of its own,
    all equally likely. Pure; under `jax.jit` and `jax.vmap` too.

    Args:
      key: decides the windows and who is mirrored.
      images: ``[batch, h, w, c]``.
      fill: ``[c]``, the colour of the padding; see `black`.
      padding: pixels added on every side.

    Returns:
      ``[batch, h, w, c]``, of the images' dtype.
    """
    batch, height, width, channels = images.shape
    corner_key, mirror_key = jax.random.split(key)
    corners = jax.random.randint(corner_key, (batch, 2), 0, 2 * padding + 1)
    mirrored = jax.random.bernoulli(mirror_key, shape=(batch, 1, 1, 1))

    def cut(image: jax.Array, corner: jax.Array) -> jax.Array:
        size = (height + 2 * padding, width + 2 * padding, channels)
        padded = jnp.broadcast_to(fill.astype(image.dtype), size)
        padded = lax.dynamic_update_slice(padded, image, (padding, padding, 0))
        return lax.dynamic_slice(padded, (corner[0], corner[1], 0), image.shape)

    windows = jax.vmap(cut)(images, corners)
    return jnp.where(mirrored, windows[:, :, ::-1], windows)


def black(images: jax.Array) -> jax.Array:
    """Return the colour that was 0 before normalisation: the least value of each channel, ``[c]``.

    The authors' code pads the images before it normalises them. True of data that hold a raw 0 in
    every channel, as CIFAR-10's training set does.

    Args:
      images: ``[images, h, w, c]``, normalised per channel.
    """
    return images.min((0, 1, 2))

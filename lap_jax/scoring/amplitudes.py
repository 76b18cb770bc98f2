"""Amplitudes, a value per channel: multiplied, and met where several reach one channel.

Alone, such an operation takes no time at all, but each is a program of JAX per shape, and a network
of fifty layers has a hundred of them: to compile these takes longer than what is left of its masks.
Amplitudes that lie in the host's memory are NumPy arrays here, and what is made of them is, too, to
the bit (`lap_jax.scoring.on_host`). No such array holds a subnormal number: where one comes up the
result is JAX's, and so is whatever is made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.scoring import on_host
from lap_jax.scoring.norms import euclidean

Amplitudes = Any
"""``[channels]`` or ``[rows, channels]``, not negative; of NumPy or of JAX."""


def in_memory(x: Amplitudes) -> Amplitudes:
    """Return an array of JAX in the host's memory as one of NumPy, if that can be as exact."""
    array = np.asarray(x)
    return x if on_host.unless_tiny(array) is None else array


def times(x: Amplitudes, y: Amplitudes) -> Amplitudes:
    """Return ``x * y``."""
    if _all_numpy(x, y):
        with np.errstate(all="ignore"):
            found = on_host.unless_tiny(x * y)
        if found is not None:
            return found
    return jnp.multiply(x, y)


def scaled(x: Amplitudes, scale: float) -> Amplitudes:
    """Return ``x * scale``, of the dtype of ``x``."""
    if scale == 1:
        return x
    number = np.asarray(scale, x.dtype)
    if on_host.unless_tiny(number) is None:
        return jnp.multiply(x, scale)
    return times(x, number)


def norm(rows: Sequence[Amplitudes]) -> Amplitudes:
    """Return the Euclidean norm over all rows of some arrays; of a single row, the row itself."""
    if sum(len(each) for each in rows) == 1:
        return rows[0][0]
    if _all_numpy(*rows):
        with np.errstate(all="ignore"):
            found = on_host.euclidean(np.concatenate(rows))
        if found is not None:
            return found
    return _euclidean(jnp.concatenate(rows))


def product(values: Sequence[Amplitudes]) -> Amplitudes:
    """Return the product of vectors of one size."""
    if len(values) == 1:
        return values[0]
    if len(values) == 2:  # more of them JAX may take in any order
        return times(*values)
    return jnp.prod(jnp.stack(values), 0)


def _all_numpy(*arrays: Amplitudes) -> bool:
    return all(isinstance(each, np.ndarray) for each in arrays)


@jax.jit
def _euclidean(rows: jax.Array) -> jax.Array:
    return euclidean(rows, 0)

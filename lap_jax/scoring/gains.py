"""What multiplies the channels of a layer or junction: the gains of its norms and scales.

One small program gives each, and it is one per number of channels, or would be: a network has a
dozen of these numbers. In the host's memory factors are filled up with ones to one of few sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.batching import as_numpy, for_each, is_traced, on_host
from lap_jax.graph.layers import Factor
from lap_jax.scoring.scores import widen

_LEAST = 10


class Gain(NamedTuple):
    """What multiplies channels, but for the leaves' paths: what parts of one program share.

    Attributes:
      size: number of channels.
      factors: without their paths.
      of_layer: whether it is a layer's, not a junction's.
    """

    size: int
    factors: tuple[Factor, ...]
    of_layer: bool


def gain(how: Gain, *leaves: jax.Array) -> jax.Array:
    """Return what multiplies the outputs of a layer or junction, per channel, ``[size]``.

        product over factors of |leaf + shift| ** power

    which for the factors of a batch norm is ``|scale| / sqrt(var + epsilon)`` (Eq. 8). A distortion
    is not negative, a scale may be. To be compiled as a whole: XLA divides by a root in another way
    where it sees both.

    Args:
      how: the factors.
      leaves: of each.
    """
    product = jnp.ones(how.size, jnp.float32)
    for factor, leaf in zip(how.factors, leaves, strict=True):
        entries = widen(leaf).reshape(-1)
        if factor.entries is not None:
            entries = entries[factor.entries.values]
        entries = jnp.abs(entries + factor.shift)
        if factor.power == 1:
            product = product * entries
        elif factor.power == -0.5 and how.of_layer:
            # XLA's power rounds otherwise than its root: masks of layers are those of Eq. 8's form.
            product = product / jnp.sqrt(entries)
        else:
            product = product * entries**factor.power
    return product


def gains(calls: Mapping[str, tuple[Gain, tuple[Any, ...]]]) -> dict[str, jax.Array]:
    """Return ``{name: gain(how, *leaves)}`` for ``{name: (how, leaves)}``."""
    if is_traced([leaves for _, leaves in calls.values()]):
        return for_each(gain, calls)
    alike = {name: _filled_up(how, as_numpy(leaves))
             for name, (how, leaves) in calls.items() if on_host(leaves)}  # fmt: skip
    found = for_each(gain, {**calls, **alike})
    own = {name: np.asarray(found[name])[: calls[name][0].size] for name in alike}
    return found | jax.device_put(own)


def _filled_up(how: Gain, leaves: tuple[np.ndarray, ...]) -> tuple[Gain, tuple[np.ndarray, ...]]:
    """Return a gain of as many channels as others have: each its own entry, and ones behind."""
    bits = max((how.size - 1).bit_length(), _LEAST)
    size = 2 ** (bits + bits % 2)
    filled = []
    for factor, leaf in zip(how.factors, leaves, strict=True):
        entries = leaf.reshape(-1)
        if factor.entries is not None:
            entries = entries[factor.entries.values]
        each = np.ones(size, leaf.dtype)
        each[: how.size] = entries
        filled.append(each)
    factors = tuple(replace(factor, entries=None) for factor in how.factors)
    return Gain(size, factors, how.of_layer), tuple(filled)

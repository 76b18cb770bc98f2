"""Scores of weights: arrays in, arrays out.

Whatever is squared is first divided by a power of two near its maximum, so that scores do not
depend on the scale of the weights.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lap_jax.graph.layers import Junction, Node
from lap_jax.scoring.norms import add_up, in_memory, near_largest, power_of_two, sum_squares
from lap_jax.scoring.propagation import Measured, Reach, after, before


class Sides(NamedTuple):
    """What a weight's input neuron ``[in]`` and output neuron ``[out]`` contribute to its score."""

    input: jax.Array | None
    output: jax.Array | None


def magnitude(kernel: jax.Array) -> jax.Array:
    """Return ``|w|`` (Eq. 1), in float32, or float64 for a float64 kernel."""
    return jnp.abs(widen(kernel))


def random(layer: Node, key: jax.Array) -> jax.Array:
    """Return uniform scores in [0, 1), float32, of the kernel's shape.

    They depend on the key and the layer's path alone, so that masks of two sparsities nest.
    """
    return jax.random.uniform(jax.random.fold_in(key, zlib.crc32(layer.path.encode())), layer.shape)


def lookahead(kernel: jax.Array, groups: int, sides: Sides) -> jax.Array:
    """Return the lookahead distortion of every weight of a layer (Eq. 5; with norms, Eq. 9).

    ``|w| * input[j] * output[k]`` for ``w`` from input neuron ``j`` to output neuron ``k``.

    Args:
      kernel: ``(*window, in / groups, out)``.
      groups: feature groups of a convolution, else 1.
      sides: from `sides`.

    Returns:
      Scores of the kernel's shape, float32 or wider.
    """
    score = magnitude(kernel)
    if groups > 1:
        score = score.reshape(*kernel.shape[:-1], groups, -1)
    if sides.input is not None:
        before = sides.input.reshape(groups, -1).T  # [in / groups, groups]
        score = score * (before if groups == 1 else before[..., None])
    if sides.output is not None:
        score = score * sides.output.reshape(score.shape[-1 if groups == 1 else -2 :])
    return score.reshape(kernel.shape)


def by_pair(kernel: jax.Array, factors: jax.Array) -> jax.Array:
    """Return ``|w| * factors[j, k]``, for factors ``[in / groups, out]`` that no sides tell."""
    return magnitude(kernel) * factors


def sides(
    reach: Reach, layer: Node, direction: str, horizon: int | str = 1, rescale: bool = False
) -> Sides:
    """Return what the neighbours of a layer make of its weights.

        input[j]**2  = sum over the layers before of a_prev[j]**2 * ||W_prev[j, :]||**2
        output[k]**2 = a[k]**2 * sum over the layers after of ||W_next[:, k]||**2

    where an identity branch adds one to the sum, and a side without neighbours counts as one (the
    paper's tensors of ones, up to a constant).

    Args:
      reach: the graph and what its layers bring and ask for.
      layer: the layer to score.
      direction: "both", "forward" (the next layers alone) or "backward" (the previous alone).
      horizon: how many layers to look ahead and back, or "all".
      rescale: divide each side by a power of two near its maximum. The order within the layer stays
        the same to the bit, and the scores neither overflow nor underflow.

    Returns:
      The two sides; None for the one that the direction leaves out.
    """
    measured = reach.measured.get(layer.name, Measured())
    left = right = None
    if direction in ("both", "backward"):
        left = measured.input
        left = before(reach, layer.name, horizon) if left is None else widen(left)
        left = left / near_largest(left) if rescale else left
    if direction in ("both", "forward"):
        right = measured.output
        right = after(reach, layer.name, horizon) if right is None else widen(right)
        right = right / near_largest(right) if rescale else right
    return Sides(left, right)


def flow(
    layer: Node, kernel: jax.Array, peak: jax.Array, mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Return norms of a kernel: per input neuron ``[in]`` and per output neuron ``[out]``.

    ``in[j] = ||W[:, j]||_F`` in the paper's notation (weights that leave input neuron ``j``),
    ``out[k] = ||W[k, :]||_F`` (weights that arrive at output neuron ``k``).

    Args:
      layer: whose kernel it is.
      kernel: ``(*window, in / groups, out)``.
      peak: its largest ``|w|``, or that of another kernel on the same scale.
      mask: if given, the weights that still count.
    """
    near = power_of_two(peak)
    window = (-1, *kernel.shape[-2:])
    kernel, mask = widen(kernel).reshape(window), None if mask is None else mask.reshape(window)
    if len(kernel) > 1:
        spread = in_memory(sum_squares(kernel, 0, near, mask), peak)  # [in / groups, out]
        arriving, leaving = add_up(spread, 0), add_up(_by_group(spread, layer.groups), -1)
    else:
        kernel, mask = kernel[0], None if mask is None else mask[0]
        arriving = sum_squares(kernel, 0, near, mask)
        grouped = None if mask is None else _by_group(mask, layer.groups)
        leaving = sum_squares(_by_group(kernel, layer.groups), -1, near, grouped)
    leaving = leaving.reshape(-1)
    return near * jnp.sqrt(leaving), near * jnp.sqrt(arriving)


def _by_group(matrix: jax.Array, groups: int) -> jax.Array:
    """View ``[in / groups, out]`` as ``[groups, in / groups, out / groups]``."""
    if groups == 1:
        return matrix
    return matrix.reshape(matrix.shape[0], groups, -1).swapaxes(0, 1)


def peak(kernel: jax.Array) -> jax.Array:
    """Return the largest ``|w|``, float32 or wider; not finite if a weight is not."""
    return jnp.max(magnitude(lax.optimization_barrier(kernel)))


def gain(layer: Node, tensors: Mapping[str, jax.Array]) -> jax.Array:
    """Return ``a = |scale| / sqrt(var + epsilon)`` per output channel, ``[out]`` (Eq. 8).

    A distortion is not negative, a scale may be.
    """
    factor = jnp.ones(layer.out_size, jnp.float32)
    if "scale" in tensors:
        factor = factor * jnp.abs(widen(tensors["scale"]))
    if "var" in tensors:
        assert layer.norm is not None
        factor = factor / jnp.sqrt(widen(tensors["var"]) + layer.norm.epsilon)
    return factor


def factor(junction: Junction, leaves: Mapping[str, jax.Array]) -> jax.Array:
    """Return what multiplies the channels of a junction, ``[size]``: ``|leaf + shift|**power``.

    Args:
      junction: one with factors.
      leaves: by path.
    """
    product = jnp.ones(junction.size, jnp.float32)
    for part in junction.factors:
        entries = widen(leaves[part.path]).reshape(-1)
        if part.entries is not None:
            entries = entries[part.entries.values]
        entries = jnp.abs(entries + part.shift)
        product = product * (entries if part.power == 1 else entries**part.power)
    return product


def weigh(
    layer: Node, kernel: jax.Array, amplitudes: jax.Array, forward: bool,
    mask: jax.Array | None = None,
) -> jax.Array:  # fmt: skip
    """Lead amplitudes through a layer's squared weights, to its outputs or back to its inputs.

    ``sqrt(sum over j of W[j, k]**2 * amplitudes[j]**2)``, or the same over ``k``.
    """
    near = near_largest(amplitudes)
    amplitudes = amplitudes / near
    sides = Sides(amplitudes, None) if forward else Sides(None, amplitudes)
    weighted = lookahead(kernel, layer.groups, sides)
    return near * flow(layer, weighted, jnp.max(weighted), mask)[forward]


def widen(array: jax.Array) -> jax.Array:
    """Return an array in float32, or as wide as it is."""
    return jnp.asarray(array).astype(jnp.promote_types(jnp.result_type(array), jnp.float32))

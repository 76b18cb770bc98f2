"""Scores of weights: arrays in, array out.

A score is a function of a kernel and of what it names among its arguments: ``input`` and ``output``
(what the neighbours make of the weight's two neurons), ``key``, or tensors of the user's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lap_jax.scoring.kernels import Layout, as_read
from lap_jax.scoring.norms import (
    add_up,
    euclidean,
    in_memory,
    near_largest,
    power_of_two,
    sum_squares,
)

Score = Callable[..., jax.Array]


def magnitude(kernel: jax.Array) -> jax.Array:
    """Return ``|w|`` (Eq. 1)."""
    return jnp.abs(kernel)


def lookahead(kernel: jax.Array, input: jax.Array, output: jax.Array) -> jax.Array:
    """Return ``|w| * input[j] * output[k]``, the lookahead distortion (Eq. 5 and 9)."""
    return jnp.abs(kernel) * input * output


def random(kernel: jax.Array, key: jax.Array) -> jax.Array:
    """Return uniform scores in [0, 1)."""
    return jax.random.uniform(key, kernel.shape)


SCORES: Mapping[str, Score] = MappingProxyType(
    {"magnitude": magnitude, "random": random, "lookahead": lookahead}
)
"""The scores that have names."""


def wants(score: Score) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of what a score takes beside the kernel: what it must have, what it may."""
    _, *rest = inspect.signature(score).parameters.values()
    named = [part for part in rest if part.kind in (part.POSITIONAL_OR_KEYWORD, part.KEYWORD_ONLY)]
    must = tuple(part.name for part in named if part.default is part.empty)
    return must, tuple(part.name for part in named if part.default is not part.empty)


class Sides(NamedTuple):
    """What a weight's input neuron ``[in]`` and output neuron ``[out]`` contribute to its score.

    None counts as ones.
    """

    input: jax.Array | None = None
    output: jax.Array | None = None


def scored(
    score: Score, layout: Layout, kernel: jax.Array, sides: Sides, others: Mapping[str, jax.Array]
) -> jax.Array:
    """Return the scores of a kernel's weights, of its shape, float32 or wider.

    Args:
      score: called with the kernel in float32 or wider, and with what it names: ``input`` and
        ``output``, of shapes that broadcast against the kernel's, and any of ``others``.
      layout: of the kernel.
      kernel: ``(*window, in / groups, out)``.
      sides: by neuron.
      others: further arguments by name.
    """
    names = {name for part in wants(score) for name in part}
    arguments = {**along_kernel(layout, sides)._asdict(), **others}
    return score(widen(kernel), **{name: arguments[name] for name in arguments if name in names})


def along_kernel(layout: Layout, sides: Sides) -> Sides:
    """Return values per neuron in shapes that broadcast against the kernel's; ones for None."""
    output = jnp.ones(1, jnp.float32) if sides.output is None else sides.output
    return Sides(along_inputs(layout, sides.input), output)


def along_inputs(layout: Layout, values: Any) -> Any:
    """Return values per input neuron along the kernel's axis -2; with groups along both last.

    Of NumPy or of JAX; ones of JAX for None.
    """
    if values is None:
        return jnp.ones((1, 1), jnp.float32)
    if layout.groups == 1:
        return values[:, None]
    each = values.reshape(layout.groups, -1).T[..., None]  # [in / groups, groups, 1]
    width = layout.shape[-1] // layout.groups
    xp: Any = np if isinstance(values, np.ndarray) else jnp
    return xp.broadcast_to(each, (*each.shape[:2], width)).reshape(each.shape[0], -1)


def read_by_all(
    score: Score, layouts: tuple[Layout, ...], kernel: jax.Array, sides: tuple[Sides, ...],
    others: Mapping[str, jax.Array],
) -> jax.Array:  # fmt: skip
    """Return the scores of weights that are read in one way or in several: these add in squares.

    Args:
      score, others: as in `scored`; tensors of the shape in which the weights are first read.
      layouts: of each read, the first being that of the kernel.
      kernel: as it is first read.
      sides: of each read.
    """
    first = layouts[0]
    if len(layouts) == 1:
        return scored(score, first, kernel, sides[0], others)
    found = []
    for layout, own in zip(layouts, sides, strict=True):
        moved = {
            name: as_read(first, layout, each) if each.shape == first.shape else each
            for name, each in others.items()
        }
        read = scored(score, layout, as_read(first, layout, kernel), own, moved)
        found.append(as_read(layout, first, read))
    return euclidean(jnp.stack(found), 0)


def flow(
    groups: int, kernel: jax.Array, peak: jax.Array, mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Return norms of a kernel: per input neuron ``[in]`` and per output neuron ``[out]``.

    ``in[j] = ||W[:, j]||_F`` in the paper's notation (weights that leave input neuron ``j``),
    ``out[k] = ||W[k, :]||_F`` (weights that arrive at output neuron ``k``).

    Args:
      groups: feature groups.
      kernel: ``(*window, in / groups, out)``.
      peak: its largest ``|w|``, or that of another kernel on the same scale.
      mask: if given, the weights that still count.
    """
    near = power_of_two(peak)
    window = (-1, *kernel.shape[-2:])
    kernel, mask = widen(kernel).reshape(window), None if mask is None else mask.reshape(window)
    if len(kernel) > 1:
        spread = in_memory(sum_squares(kernel, 0, near, mask), peak)  # [in / groups, out]
        arriving, leaving = add_up(spread, 0), add_up(_by_group(spread, groups), -1)
    else:
        kernel, mask = kernel[0], None if mask is None else mask[0]
        arriving = sum_squares(kernel, 0, near, mask)
        grouped = None if mask is None else _by_group(mask, groups)
        leaving = sum_squares(_by_group(kernel, groups), -1, near, grouped)
    leaving = leaving.reshape(-1)
    return near * jnp.sqrt(leaving), near * jnp.sqrt(arriving)


def _by_group(matrix: jax.Array, groups: int) -> jax.Array:
    """View ``[in / groups, out]`` as ``[groups, in / groups, out / groups]``."""
    if groups == 1:
        return matrix
    return matrix.reshape(matrix.shape[0], groups, -1).swapaxes(0, 1)


def weigh(
    layout: Layout, kernel: jax.Array, amplitudes: jax.Array, forward: bool,
    mask: jax.Array | None = None,
) -> jax.Array:  # fmt: skip
    """Lead amplitudes through a layer's squared weights, to its outputs or back to its inputs.

    ``sqrt(sum over j of W[j, k]**2 * amplitudes[j]**2)``, or the same over ``k``.
    """
    near = near_largest(amplitudes)
    amplitudes = amplitudes / near
    sides = Sides(amplitudes, None) if forward else Sides(None, amplitudes)
    weighted = scored(lookahead, layout, kernel, sides, {})
    return near * flow(layout.groups, weighted, jnp.max(weighted), mask)[forward]


def peak(kernel: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Return the largest ``|w|`` of those that count; not finite if a weight is not."""
    values = jnp.abs(widen(lax.optimization_barrier(kernel)))
    return jnp.max(values if mask is None else jnp.where(mask, values, 0))


def widen(array: jax.Array) -> jax.Array:
    """Return an array in float32, or as wide as it is."""
    return jnp.asarray(array).astype(jnp.promote_types(jnp.result_type(array), jnp.float32))

"""Small layers share the search for their largest scores, or it is NumPy's.

That search is what takes longest to compile. A program that scores a layer and searches, pass by
pass, is one per shape: of a convolutional network with thirty shapes, most of the time that the
first masks take. Here scores of small layers are written to memory once. In the host's memory NumPy
finds the largest, which takes less than the program's passes; elsewhere they are filled up to one
of few sizes, and searched there.

The masks are the same: what fills up takes no part, and lies behind all that does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lap_jax.batching import as_numpy, for_each, is_traced, on_host
from lap_jax.selection.top_k import keep_largest, largest_on_host

LARGEST = 2**20
"""Weights of a layer beyond which writing its scores costs more than compiling for it alone."""
_LEAST, _FINE = 10, 16


def shares(shape: tuple[int, ...], operands: Any) -> bool:
    """Return whether a layer is to share a search: a small one, there to be seen, on one device."""
    if is_traced(operands) or (math.prod(shape) > LARGEST and not on_host(operands)):
        return False
    return all(
        len(leaf.sharding.device_set) == 1
        for leaf in jax.tree.leaves(operands) if isinstance(leaf, jax.Array)
    )  # fmt: skip


def filled(size: int) -> int:
    """Return the size that scores are filled up to: a power of four, of many of two.

    >>> [filled(size) for size in (1, 1025, 5000, 70000)]
    [1024, 4096, 16384, 131072]
    """
    bits = max((size - 1).bit_length(), _LEAST)
    return 2 ** (bits + bits % 2 if bits < _FINE else bits)


def select_alike(
    stage: Callable[..., Any],
    layers: Mapping[str, tuple[Hashable, tuple[Any, ...], jax.Array | None]],
    shapes: Mapping[str, tuple[int, ...]],
    kept: Mapping[str, Any],
    twin: Callable[..., np.ndarray | None] | None = None,
) -> dict[str, jax.Array]:
    """Return the masks of the largest scores of each layer.

    Args:
      stage: what makes scores of the settings and inputs of a layer.
      layers: by name, its settings, its inputs, and the weights that take part (None: all).
      shapes: of the kernels.
      kept: how many weights are to stay.
      twin: gives the scores of settings and inputs in NumPy, or None where it cannot tell them.

    Returns:
      ``{layer name: boolean array of the kernel's shape}``.
    """
    found = {
        name: _on_host(stage, twin, settings, inputs, where, int(kept[name]))
        for name, (settings, inputs, where) in layers.items()
        if on_host((inputs, where))
    }
    masks: dict[str, jax.Array] = jax.device_put(found)
    elsewhere = {name: call for name, call in layers.items() if name not in found}
    return masks | _searched_together(stage, elsewhere, shapes, kept)


def _on_host(
    stage: Callable[..., Any], twin: Callable[..., np.ndarray | None] | None, settings: Hashable,
    inputs: tuple[Any, ...], where: jax.Array | None, kept: int,
) -> np.ndarray:  # fmt: skip
    scores = None if twin is None else twin(settings, *as_numpy(inputs))
    if scores is None:
        (scores,) = as_numpy(for_each(_scored, {"": ((stage, settings), inputs)})).values()
    return largest_on_host(scores, kept, None if where is None else np.asarray(where))


def _scored(how: tuple[Callable[..., Any], Hashable], *inputs: Any) -> jax.Array:
    stage, settings = how
    function, operands = stage(settings, *inputs)
    return function(*operands)


def _searched_together(
    stage: Callable[..., Any],
    layers: Mapping[str, tuple[Hashable, tuple[Any, ...], jax.Array | None]],
    shapes: Mapping[str, tuple[int, ...]],
    kept: Mapping[str, Any],
) -> dict[str, jax.Array]:
    """Return the masks of layers by one search for each size that they are filled up to."""
    scored = for_each(_filled_up, {
        name: ((stage, settings), (inputs, where))
        for name, (settings, inputs, where) in layers.items()
    })  # fmt: skip
    searched = for_each(_searched, {
        name: (None, (*each, np.uint32(math.prod(shapes[name])), np.uint32(kept[name])))
        for name, each in scored.items()
    })  # fmt: skip
    return for_each(_in_shape, {name: (shapes[name], (mask,)) for name, mask in searched.items()})


def _filled_up(
    how: tuple[Callable[..., Any], Hashable], inputs: tuple[Any, ...], where: jax.Array | None
) -> tuple[jax.Array, jax.Array | None]:
    """Return scores in a row, and which of them take part."""
    stage, settings = how
    function, operands = stage(settings, *inputs)
    scores = function(*operands).reshape(-1)
    rest = (0, filled(scores.size) - scores.size)
    return jnp.pad(scores, rest), None if where is None else jnp.pad(where.reshape(-1), rest)


def _searched(
    _: None, scores: jax.Array, where: jax.Array | None, size: jax.Array, kept: jax.Array
) -> jax.Array:
    own = lax.iota(jnp.uint32, scores.size) < size
    return keep_largest(scores, kept, own if where is None else where)


def _in_shape(shape: tuple[int, ...], mask: jax.Array) -> jax.Array:
    return mask[: math.prod(shape)].reshape(shape)

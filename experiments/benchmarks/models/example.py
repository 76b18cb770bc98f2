"""A model as it is tried here: a function of a tree of arrays, and made-up weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, keystr


class Example(NamedTuple):
    """A model with what it is called with.

    Attributes:
      function: ``function(variables, *inputs)``.
      variables: a tree of arrays: parameters, or ``{"params": ..., "batch_stats": ...}``.
      inputs: arrays, of made-up data.
    """

    function: Callable[..., Any]
    variables: Any
    inputs: tuple[Any, ...]


def leaves_by_path(variables: Any) -> dict[str, Any]:
    """Return the arrays of a tree by the paths that a graph has: without the collection's name."""
    flat, _ = jax.tree_util.tree_flatten_with_path(variables)
    found = {}
    for keys, leaf in flat:
        if keys and isinstance(keys[-1], GetAttrKey) and keys[-1].name == "value":
            keys = keys[:-1]
        found["/".join(keystr((key,), simple=True) for key in keys)] = leaf
    if not has_collections(variables):
        return found
    own = {path.removeprefix("params/") for path in found if path.startswith("params/")}
    return {_in_collection(path, own): leaf for path, leaf in found.items()}


def count_of(leaves: Mapping[str, Any]) -> int:
    """Return how many parameters leaves hold; they may be shapes alone."""
    return sum(math.prod(jnp.shape(leaf)) for leaf in leaves.values())


def has_collections(variables: Any) -> bool:
    """Return whether a tree is a Linen model's: parameters beside other collections."""
    return isinstance(variables, Mapping) and isinstance(variables.get("params"), Mapping)


def _in_collection(path: str, own: set[str]) -> str:
    collection, _, rest = path.partition("/")
    return rest if collection == "params" or rest not in own else path


def stirred(variables: Any, seed: int = 0) -> Any:
    """Return variables that nothing in them makes a special case: no zeros, no two ones alike.

    Kernels stay as they are, unless they are zeros, as the last ones of some blocks are at first.
    Scales of blocks that start out near zero (a millionth, in ConvNeXt) are brought near one: what
    is perturbed before them would otherwise be lost in the rounding of what it is added to.
    """
    rng = np.random.default_rng(seed)

    def stir(leaf: Any) -> Any:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        shape, value = np.shape(leaf), np.asarray(leaf, np.float32)
        if not value.any():
            value = rng.normal(size=shape) / np.sqrt(max(shape[-2] if len(shape) > 1 else 16, 1))
        elif len(shape) < 2 or np.unique(value).size == 1:
            tiny = np.unique(value).size == 1 and np.abs(value).max() < 1e-3
            value = (np.sign(value) if tiny else value) * rng.uniform(0.7, 1.3, shape)
        return jnp.asarray(value, jnp.result_type(leaf))

    return jax.tree.map(stir, variables)


def noise(*shape: int, seed: int = 1) -> jax.Array:
    """Return normal random numbers."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def tokens(*shape: int, among: int = 20, seed: int = 1) -> jax.Array:
    """Return random whole numbers from 3 on, below ``among``: the first ones may be special."""
    return jnp.asarray(np.random.default_rng(seed).integers(3, among, shape), jnp.int32)

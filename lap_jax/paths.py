"""Leaves of a parameter tree by normalised path, whatever kind of tree it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, GetAttrKey, KeyEntry, keystr

from lap_jax.errors import PruningError


def path_name(path: tuple[KeyEntry, ...]) -> str:
    """Write a key path as ``"Block_0/Dense_1/kernel"``.

    NNX variables and Linen's ``Partitioned`` boxes hold their array in an attribute ``value``,
    and whether it shows up in the path depends on who flattened the tree: it is dropped. So it is
    where a dictionary of layers by number, ``{"0": ..., "1": ...}``, is in the array's place.
    """
    end = len(path)
    while end and isinstance(path[end - 1], DictKey) and str(path[end - 1].key).isdigit():
        end -= 1
    if end and isinstance(path[end - 1], GetAttrKey) and path[end - 1].name == "value":
        path = (*path[: end - 1], *path[end:])
    return "/".join(keystr((key,), simple=True) for key in path)


def leaves_by_path(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """Return ``{path: leaf}`` in flattening order.

    Of Linen's variables, ``{"params": ..., "batch_stats": ...}``, paths are those in their own
    collection: what is said of parameters holds of the tree that they are a part of.

    Raises:
      PruningError: if two leaves have the same path once normalised, or the tree is a training
        state.
    """
    names, leaves, _ = _flattened(tree, is_leaf)
    for name, count in Counter(names).items():
        if count > 1:
            raise PruningError(f"two leaves of the tree share the path {name!r}: rename one")
    return dict(zip(names, leaves, strict=True))


def shapes_by_path(tree: Any) -> dict[str, tuple[int, ...]]:
    """Return ``{path: shape}`` of the arrays and numbers in a tree; functions have no shape."""
    return {
        path: jnp.shape(leaf)
        for path, leaf in leaves_by_path(tree).items()
        if is_array(leaf) or isinstance(leaf, (bool, int, float, complex))
    }


def map_by_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Return a tree of the same structure with ``function(path, leaf)`` at each leaf."""
    names, leaves, structure = _flattened(tree)
    return jax.tree.unflatten(structure, map(function, names, leaves))


def has_collections(tree: Any) -> bool:
    """Return whether a tree is Linen's variables: parameters beside other collections."""
    if not isinstance(tree, Mapping) or type(tree).__module__.startswith("flax.nnx"):
        return False
    return isinstance(tree.get("params"), Mapping)


def is_array(leaf: Any) -> bool:
    """Return whether a leaf is an array, or stands for one; functions in a module's tree do not."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def checked_mask(name: str, mask: Any) -> jax.Array:
    """Return a mask as truth values; whole numbers 0 and 1 are welcome.

    Raises:
      PruningError: with the name, for other numbers: a mask of 0.5 says nothing.
    """
    dtype = jnp.result_type(mask)
    if dtype == jnp.bool_:
        return jnp.asarray(mask)
    seen = not isinstance(mask, jax.core.Tracer)
    if not jnp.issubdtype(dtype, jnp.integer) or (seen and not np.isin(mask, (0, 1)).all()):
        raise PruningError(
            f"{name} is {dtype}: expected booleans, True where a weight stays; say which numbers "
            "do, as in jax.tree.map(lambda mask: mask != 0, masks)"
        )
    return jnp.asarray(mask) != 0


def _flattened(
    tree: Any, is_leaf: Callable[[Any], bool] | None = None
) -> tuple[list[str], list[Any], Any]:
    if hasattr(tree, "opt_state") and hasattr(tree, "params"):
        raise PruningError(
            f"found a training state, {type(tree).__name__}, where parameters are expected: pass "
            "state.params, and batch_stats=state.batch_stats where the model has batch norms"
        )
    paths, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    names = [path_name(path) for path, _ in paths]
    if has_collections(tree):
        own = {name.partition("/")[2] for name in names if name.startswith("params/")}
        names = [_in_collection(name, own) for name in names]
    return names, [leaf for _, leaf in paths], structure


def _in_collection(name: str, own: set[str]) -> str:
    """Return a path without its collection; outside of the parameters only where that is free."""
    collection, _, rest = name.partition("/")
    return rest if rest and (collection == "params" or rest not in own) else name

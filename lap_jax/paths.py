"""Leaves of a parameter tree by normalised path, whatever kind of tree it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.tree_util import GetAttrKey, KeyEntry, keystr

from lap_jax.errors import PruningError


def path_name(path: tuple[KeyEntry, ...]) -> str:
    """Write a key path as ``"Block_0/Dense_1/kernel"``.

    NNX variables and Linen's ``Partitioned`` boxes hold their array in an attribute ``value``,
    and whether it shows up in the path depends on who flattened the tree: it is dropped.
    """
    if path and isinstance(path[-1], GetAttrKey) and path[-1].name == "value":
        path = path[:-1]
    return "/".join(keystr((key,), simple=True) for key in path)


def leaves_by_path(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """Return ``{path: leaf}`` in flattening order.

    Raises:
      PruningError: if two leaves have the same path once normalised.
    """
    leaves: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]:
        name = path_name(path)
        if name in leaves:
            raise PruningError(f"two leaves of the tree share the path {name!r}: rename one")
        leaves[name] = leaf
    return leaves


def map_by_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Return a tree of the same structure with ``function(path, leaf)`` at each leaf."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(path_name(path), leaf), tree
    )

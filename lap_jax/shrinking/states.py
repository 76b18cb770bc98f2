"""Trees of the variables' paths, and states of optimizers that hold such trees, leaf by leaf."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax

from lap_jax.paths import is_array, leaves_by_path, map_by_path


def changed(
    tree: Any, variables: Any, paths: Collection[str], leaf: Callable[[str, Any], Any],
    factored: Callable[[Any], Any],
) -> Any:  # fmt: skip
    """Return a tree with every leaf that stands for one of the variables changed.

    Args:
      tree: of paths of the variables (masks, gradients, weights), all or some; or one that holds
        such trees, as states of optimizers do.
      variables: as the tree is before the change.
      paths: of these.
      leaf: gives what stands in the place of a path and a leaf: an array, or a dictionary of such.
      factored: changes the state of a factored second moment (adafactor).
    """
    names = leaves_by_path(tree)
    if names and set(names) <= set(paths):
        return map_by_path(leaf, tree)
    wholes = [variables]
    if isinstance(variables, Mapping):
        wholes += [part for part in variables.values() if isinstance(part, Mapping)]
    structures = [jax.tree.structure(whole) for whole in wholes]

    def is_like(node: Any) -> bool:
        return _is_factored(node) or _holds_masks(node, paths) or _is_by_path(node, paths) or (
            not is_array(node) and jax.tree.structure(node) in structures
        )  # fmt: skip

    def by_path(masks: dict[str, Any]) -> dict[str, Any]:
        found = dict[str, Any]()
        for path, mask in masks.items():
            own = leaf(path, mask) if path in paths else mask
            parts = own.items() if isinstance(own, dict) else ()
            found |= {inside(path, name): part for name, part in parts} or {path: own}
        return found

    def change(node: Any) -> Any:
        if _is_factored(node):
            return factored(node)
        if _holds_masks(node, paths):
            others = {name: walked(getattr(node, name)) for name in node._fields if name != "masks"}
            return type(node)(**others, masks=by_path(node.masks))
        if not is_like(node):
            return node
        if jax.tree.structure(node) in structures:
            return map_by_path(leaf, node)
        return by_path(node)

    def walked(tree: Any) -> Any:
        return jax.tree.map(change, tree, is_leaf=is_like)

    return walked(tree)


def inside(path: str, name: str) -> str:
    """Return the path of what is in the place of another."""
    return f"{path}/{name}" if path else name


def _is_by_path(node: Any, paths: Collection[str]) -> bool:
    """Return whether a node is a plain dictionary by path."""
    return type(node) is dict and bool(node) and set(node) <= set(paths)


def _holds_masks(node: Any, paths: Collection[str]) -> bool:
    """Return whether a node is a state of ours, whose masks are by path."""
    return "masks" in getattr(type(node), "_fields", ()) and _is_by_path(node.masks, paths)


def _is_factored(node: Any) -> bool:
    """Return whether a node is the state of a factored second moment (adafactor)."""
    return type(node).__name__ == "FactoredState" and hasattr(node, "v_row")

"""Arrays that lie over several devices: results are to lie as what they are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, auto_axes

from lap_jax.batching import is_traced

Named = dict[str, jax.Array]


def sharding_of(array: Any, axes: int = 0) -> NamedSharding | None:
    """Return how an array lies over a mesh whose axes the compiler manages; None where unseen.

    It is unseen under a trace, where the compiler carries layouts on by itself.

    Args:
      array: whatever holds one.
      axes: how many of its first axes to leave out.
    """
    found = None if isinstance(array, jax.core.Tracer) else getattr(array, "sharding", None)
    if not (
        isinstance(found, NamedSharding)
        and isinstance(found.mesh, Mesh)
        and all(kind == AxisType.Auto for kind in found.mesh.axis_types)
    ):
        return None
    return NamedSharding(found.mesh, PartitionSpec(*found.spec[axes:]))


def everywhere(sharding: NamedSharding | None) -> NamedSharding | None:
    """Return the layout of small things: whole on each device of the same mesh."""
    return None if sharding is None else NamedSharding(sharding.mesh, PartitionSpec())


def as_laid_out(tree: Any, sharding: Sharding | None) -> Any:
    """Return arrays, laid out as wanted; None leaves it to the compiler."""
    return tree if sharding is None else lax.with_sharding_constraint(tree, sharding)


def on_any_mesh(
    function: Callable[..., tuple[Named, Any]], operands: tuple[Any, ...],
    like: Callable[[], Mapping[str, Any]],
) -> tuple[Named, Any]:  # fmt: skip
    """Call ``function(*operands)``, also where the axes of the mesh are explicit.

    On explicit axes (the default of `jax.make_mesh`) each operation would have to say how its
    result lies; the compiler can find that out alone, and only the results need it said.

    Args:
      function: gives arrays by name, and a tree of small ones.
      operands: trees of arrays.
      like: gives, by name, what the arrays are to lie like.
    """
    shardings = [jax.typeof(leaf).sharding for leaf in jax.tree.leaves(operands)]
    explicit = [each.mesh for each in shardings if AxisType.Explicit in each.mesh.axis_types]
    if not explicit:
        return function(*operands)
    wanted = like()
    if is_traced(operands):
        whole = NamedSharding(explicit[0], PartitionSpec())
        types = {name: jax.typeof(array).sharding for name, array in wanted.items()}
        results = {name: each if each.mesh == explicit[0] else whole
                   for name, each in types.items()}  # fmt: skip
        return auto_axes(function, out_sharding=(results, whole))(*operands)
    placed = {name: array.sharding for name, array in wanted.items() if _is_explicit(array)}
    first = next(leaf for leaf in jax.tree.leaves(operands) if _is_explicit(leaf))
    with jax.set_mesh(_automatic(first.sharding.mesh)):
        found, small = function(*jax.tree.map(_on_automatic, operands))
    return {
        name: jax.device_put(array, placed[name]) if name in placed else array
        for name, array in found.items()
    }, small


def _is_explicit(array: Any) -> bool:
    sharding = getattr(array, "sharding", None)
    return isinstance(sharding, NamedSharding) and AxisType.Explicit in sharding.mesh.axis_types


def _automatic(mesh: Any) -> Mesh:
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def _on_automatic(array: Any) -> Any:
    """Return an array where it lies, over a mesh whose axes the compiler manages."""
    if not _is_explicit(array):
        return array
    return jax.device_put(
        array, NamedSharding(_automatic(array.sharding.mesh), array.sharding.spec)
    )

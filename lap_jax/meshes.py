"""Arrays that lie over several devices: results are to lie as what they are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, auto_axes

Layouts = tuple[NamedSharding | None, ...]
Named = dict[str, jax.Array]


def layouts(arrays: Iterable[Any]) -> Layouts:
    """Return how arrays lie over a mesh whose axes the compiler manages; None where that is unseen.

    It is unseen under a trace, where the compiler carries layouts on by itself.
    """
    found = [getattr(array, "sharding", None) for array in arrays]
    return tuple(each if _is_seen(each) else None for each in found)


def laid_out(wanted: Layouts, arrays: Named) -> Named:
    """Return arrays, laid out as wanted."""
    return {
        name: array if layout is None else lax.with_sharding_constraint(array, layout)
        for (name, array), layout in zip(arrays.items(), wanted, strict=True)
    }


def on_any_mesh(
    function: Callable[..., tuple[Named, Named]], like: Mapping[str, Any], *operands: Any
) -> tuple[Named, Named]:
    """Call ``function(like, *operands)``, also where the axes of the mesh are explicit.

    On explicit axes (the default of `jax.make_mesh`) each operation would have to say how its
    result lies; the compiler can find that out alone, and only the results need it said.

    Args:
      function: gives arrays named and laid out as those of ``like``, and named scalars.
      like: arrays by name.
      operands: whatever else it takes.
    """
    shardings = {name: jax.typeof(array).sharding for name, array in like.items()}
    meshes = [each.mesh for each in shardings.values() if AxisType.Explicit in each.mesh.axis_types]
    if not meshes:
        return function(like, *operands)
    everywhere = NamedSharding(meshes[0], PartitionSpec())
    wanted = {
        name: each if each.mesh == meshes[0] else everywhere for name, each in shardings.items()
    }
    scalars = dict.fromkeys(like, everywhere)
    return auto_axes(function, out_sharding=(wanted, scalars))(like, *operands)


def _is_seen(sharding: Any) -> bool:
    return (
        isinstance(sharding, NamedSharding)
        and isinstance(sharding.mesh, Mesh)
        and all(kind == AxisType.Auto for kind in sharding.mesh.axis_types)
    )

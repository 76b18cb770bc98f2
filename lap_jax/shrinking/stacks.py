"""Stacks of layers taken apart, so that each layer is a leaf of its own, and put together again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from lap_jax.errors import PruningError
from lap_jax.packing import is_packed, packed, unpacked
from lap_jax.paths import has_collections, is_array, leaves_by_path, map_by_path, path_name
from lap_jax.shrinking.cuts import lying_as
from lap_jax.shrinking.states import changed, inside
from lap_jax.tracing.model import Model


class Stacks(NamedTuple):
    """Stacked leaves, of which a dictionary of layers, ``{"0": ..., "1": ...}``, takes the place.

    Attributes:
      axes: of each stack, by path, the axis of its layers.
      large: the variables that they are leaves of.
      shapes: of these, by path.
    """

    axes: Mapping[str, int]
    large: Any
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, axes: Mapping[str, int], large: Any) -> Stacks:
        """Take these leaves of these variables."""
        shapes = {path: tuple(np.shape(leaf)) for path, leaf in leaves_by_path(large).items()}
        return cls(axes, large, shapes)

    def model(self, model: Model) -> Model:
        """Return a model of variables that are taken apart; next values of them are, too."""

        def function(variables: Any, *inputs: Any, **options: Any) -> Any:
            return self._next(model.function(self.restack(variables), *inputs, **options))

        return Model(function, self.unstack(model.variables), model.inputs)

    def unstack(self, tree: Any) -> Any:
        """Return a tree, or a state that holds such, with stacks taken apart.

        Raises:
          PruningError: if an array in a stack's place has neither its shape nor one number.
        """
        return changed(tree, self.large, self.shapes, self._layers, self._factored)

    def restack(self, variables: Any) -> Any:
        """Return variables whose layers are stacked again."""
        structure: Any = jax.tree.structure(self.large)
        parts = dict(zip(self.shapes, structure.flatten_up_to(variables), strict=True))
        large = leaves_by_path(self.large)
        found = [
            lying_as(_stacked(part, self.axes[path]), large[path]) if path in self.axes else part
            for path, part in parts.items()
        ]
        return jax.tree.unflatten(structure, found)

    def names(self, path: str) -> list[str]:
        """Return the paths of a leaf that is taken apart, in the order of the layers."""
        if path not in self.axes:
            return [path]
        return [inside(path, str(i)) for i in range(self.shapes[path][self.axes[path]])]

    def _layers(self, path: str, leaf: Any) -> Any:
        if path not in self.axes:
            return leaf
        axis, shape = self.axes[path], self.shapes[path]
        own = tuple(np.shape(leaf))
        if own != shape and is_array(leaf) and is_packed(leaf):
            layers = _layers(unpacked(path, leaf, shape), axis)
            return {name: packed(layer) for name, layer in layers.items()}
        if own == shape:
            return _layers(leaf, axis)
        if own in ((), (1,)):
            return {str(i): leaf for i in range(shape[axis])}
        raise PruningError(
            f"an array of shape {own} stands for {path!r}, a stack of shape {shape}: expected one "
            "of that shape; states of optimizers that keep another one are to be made again with "
            "init"
        )

    def _factored(self, state: Any) -> Any:
        """Take apart the means over rows and columns of squared gradients."""

        def factor(which: int) -> Callable[[str, Any], Any]:
            def change(path: str, leaf: Any) -> Any:
                if path not in self.axes or tuple(leaf.shape) == (1,):
                    return self._layers(path, leaf)
                axis, shape = self.axes[path], self.shapes[path]
                rows, columns = np.argsort(shape)[-2:]
                if axis in (rows, columns):
                    raise PruningError(
                        f"{path!r} has shape {shape}, of which adafactor keeps means over its "
                        f"layers, axis {axis}: make its state again with init"
                    )
                gone = columns if which == 0 else rows
                return _layers(leaf, axis - int(gone < axis))

            return change

        return state._replace(
            v_row=map_by_path(factor(0), state.v_row),
            v_col=map_by_path(factor(1), state.v_col),
            v=map_by_path(self._layers, state.v),
        )

    def _next(self, out: Any) -> Any:
        """Take apart next values of Linen's collections among what a model returns."""
        if not has_collections(self.large):
            return out
        flat, _ = jax.tree_util.tree_flatten_with_path(self.large)
        stacks = {
            path_name(own): (path, np.shape(leaf))
            for path, (own, leaf) in zip(leaves_by_path(self.large), flat, strict=True)
            if path in self.axes and not path_name(own).startswith("params/")
        }
        flat, structure = jax.tree_util.tree_flatten_with_path(out)
        found = []
        for path, leaf in flat:
            parts = path_name(path).split("/")
            ends = ("/".join(parts[start:]) for start in range(len(parts)))
            name, shape = next((stacks[end] for end in ends if end in stacks), ("", None))
            found.append(self._layers(name, leaf) if np.shape(leaf) == shape else leaf)
        return jax.tree.unflatten(structure, found)


def _layers(leaf: Any, axis: int) -> dict[str, Any]:
    """Return the layers of a stack; on a mesh they lie as it does along the other axes."""
    count = np.shape(leaf)[axis]
    if isinstance(leaf, np.ndarray):
        return {str(i): np.take(leaf, i, axis) for i in range(count)}
    sharding = None if isinstance(leaf, jax.core.Tracer) else getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return {str(i): lax.index_in_dim(leaf, i, axis, keepdims=False) for i in range(count)}
    spec = [*sharding.spec, *[None] * (leaf.ndim - len(sharding.spec))]
    spec[axis] = None
    whole = jax.device_put(leaf, NamedSharding(sharding.mesh, PartitionSpec(*spec)))
    del spec[axis]
    own = NamedSharding(sharding.mesh, PartitionSpec(*spec))
    return {
        str(i): jax.device_put(lax.index_in_dim(whole, i, axis, keepdims=False), own)
        for i in range(count)
    }


def _stacked(layers: Mapping[str, Any], axis: int) -> Any:
    parts = [layers[str(i)] for i in range(len(layers))]
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.stack(parts, axis)
    return lax.concatenate([lax.expand_dims(part, (axis,)) for part in parts], axis)

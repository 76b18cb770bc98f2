"""What values must be, where they can be seen: under a trace they cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.graph.chain import fits
from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import Layer, nearest
from lap_jax.paths import checked_mask, leaves_by_path, shapes_by_path
from lap_jax.scoring.kernels import kernel_of
from lap_jax.scoring.propagation import Measured
from lap_jax.scoring.scores import widen
from lap_jax.selection.scope import Scope
from lap_jax.selection.scopes import least_left

_SMALL = 2**14
"""Entries of an array that is looked at on the host."""


def is_seen(value: Any) -> bool:
    """Return whether the numbers of an array are there to be looked at."""
    return not isinstance(value, jax.core.Tracer)


def check_kernels(graph: Graph, peaks: Mapping[str, jax.Array], leaves: Mapping[str, Any]) -> None:
    """Refuse NaN and infinite weights, told by the largest ``|w|`` of each layer.

    Raises:
      PruningError: naming the layer, and how many there are.
    """
    seen = {name: peak for name, peak in peaks.items() if is_seen(peak)}
    for name, peak in jax.device_get(seen).items():
        if not np.isfinite(peak):
            kernel = kernel_of(graph[name], leaves[graph[name].path])
            raise _not_finite(f"layer {name!r}", kernel, "weights")


def check_factors(graph: Graph, leaves: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse numbers of which no gain can be made: not finite, or a variance that is not positive.

    Args:
      graph: with the factors.
      leaves: ``{layer or junction: {path: leaf}}``.

    Raises:
      PruningError: naming the leaf and the layer.
    """
    with jax.ensure_compile_time_eval():  # arrays that a traced function closes over can be seen
        for name, own in leaves.items():
            part = graph.parts[name]
            where = f"after layer {name!r}" if isinstance(part, Layer) else f"in {name!r}"
            for factor in part.factors:
                leaf = own[factor.path]
                if not is_seen(leaf):
                    continue
                finite, least = _finite_and_least(leaf)
                if not finite:
                    raise _not_finite(f"{factor.path} {where}", leaf, "entries")
                if factor.power < 0 and not least + np.float32(factor.shift) > 0:
                    raise PruningError(
                        f"{factor.path} {where} is {float(least):g} somewhere, and with epsilon "
                        f"{factor.shift:g} not above zero: expected variances that are not "
                        "negative, and an epsilon where one is zero; mend the statistics, or "
                        "declare the norm with its own epsilon"
                    )


def check_tensors(tensors: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse NaN and infinite numbers in tensors, given by name and path.

    Raises:
      PruningError: naming the tensor and the path.
    """
    with jax.ensure_compile_time_eval():
        for name, leaves in tensors.items():
            for path, leaf in leaves.items():
                if is_seen(leaf) and not _finite_and_least(leaf)[0]:
                    raise _not_finite(f"tensor {name!r} at {path!r}", leaf, "entries")


def check_lowest(lowest: Mapping[str, jax.Array]) -> None:
    """Refuse scores that are NaN or negative, told by the least of each array.

    Raises:
      PruningError: naming the layer or path.
    """
    seen = {name: least for name, least in lowest.items() if is_seen(least)}
    for name, least in jax.device_get(seen).items():
        if not least >= 0:
            raise PruningError(
                f"the scores of {name!r} have {'NaN' if np.isnan(least) else f'{least:g}'} among "
                "them: expected numbers that are not negative"
            )


def checked_measured(graph: Graph, measured: Mapping[str, Measured] | None) -> dict[str, Measured]:
    """Return measurements that fit the graph.

    Raises:
      PruningError: if they name another layer, have another size, or hold numbers that are not
        finite, or negative.
    """
    for name, found in (measured or {}).items():
        layer = graph[name]
        for field, size in (("input", layer.in_size), ("active", layer.out_size),
                            ("output", layer.out_size)):  # fmt: skip
            values = getattr(found, field)
            if values is None:
                continue
            if jnp.shape(values) != (size,):
                raise PruningError(
                    f"measured {field} of layer {name!r} has shape {jnp.shape(values)}: expected "
                    f"({size},)"
                )
            if not is_seen(values):
                continue
            with jax.ensure_compile_time_eval():
                finite, least = _finite_and_least(values)
                if not finite:
                    raise PruningError(
                        f"measured {field} of layer {name!r} has "
                        f"{int(jnp.sum(~jnp.isfinite(values)))} NaN or infinite entries: measure "
                        "on data, and with weights, that hold none"
                    )
                if least < 0:
                    raise PruningError(
                        f"measured {field} of layer {name!r} has {float(least):g} among its "
                        "entries: expected norms and shares, which are not negative"
                    )
    return dict(measured or {})


def tensors_by_path(graph: Graph, tensors: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Return, by name and path, what the score takes of trees that the user gives.

    Raises:
      PruningError: for a tree without the path of a kernel, or with another shape there.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, tree in (tensors or {}).items():
        leaves = leaves_by_path(tree)
        found[name] = {}
        for layer in graph.layers:
            leaf = leaves.get(layer.path)
            if leaf is None or not fits(layer, jnp.shape(leaf)):
                what = "nothing" if leaf is None else f"shape {jnp.shape(leaf)}"
                raise PruningError(
                    f"tensors: {name!r} holds {what} at {layer.path!r}, expected what the kernel's "
                    f"shape {layer.shape} fits: pass a tree like the parameters"
                )
            found[name][layer.path] = leaf
    return found


def earlier_masks(
    graph: Graph, scope: Scope, params: Any, masks: Any, kept: np.ndarray
) -> dict[str, jax.Array]:
    """Return the masks of an earlier pruning by path; refuse those with less than ``kept``.

    Args:
      graph, scope: checked.
      params: the parameters.
      masks: as `lookahead_masks` returns them; where one is None or missing, all is left.
      kept: how many units are to stay, by prunable layer (global: one).

    Raises:
      PruningError: for masks that do not fit the graph, or leave less than is to be kept.
    """
    by_path: dict[str, Any] = leaves_by_path(masks)
    shapes = shapes_by_path(params)
    for path in by_path:
        if path not in shapes:
            raise PruningError(
                f"mask {path!r} has no parameter{nearest(path, shapes)}: give the masks of an "
                "earlier pruning of these parameters"
            )
    found: dict[str, jax.Array] = {}
    for layer in graph.layers:
        mask = by_path.get(layer.path)
        if mask is None:
            mask = jnp.ones(shapes[layer.path], bool)
        mask = checked_mask(f"the mask at {layer.path!r}", mask)
        if not fits(layer, jnp.shape(mask)):
            raise PruningError(
                f"masks hold bool{list(jnp.shape(mask))} at {layer.path!r}: expected "
                f"bool{list(layer.shape)}, as lookahead_masks returns"
            )
        found[layer.path] = mask
    if scope.unit == "neuron" or not all(map(is_seen, found.values())):
        return found  # neurons are counted where they are scored
    with jax.ensure_compile_time_eval():
        left = [least_left(scope, kernel_of(layer, found[layer.path])) for layer in graph.prunable]
        counts = [int(count) for count in left]
    names = [f"layer {layer.name!r}" for layer in graph.prunable]
    if scope.compare == "global":
        names, counts = ["all layers together"], [sum(counts)]
    units = "weights of a group" if scope.group else {
        (1, 1): "weights", "channel": "channels"}.get(scope.unit, "blocks")  # fmt: skip
    for name, count, wanted in zip(names, counts, kept.tolist(), strict=True):
        if wanted > count:
            raise PruningError(
                f"{name}: the sparsity keeps {wanted} {units}, the masks given left {count}: "
                "raise the sparsity, or leave masks out to start anew"
            )
    return found


def _finite_and_least(leaf: jax.Array) -> tuple[Any, Any]:
    """Return whether all entries are finite, and the least of them.

    Of a vector by channel on the host: a network has many lengths of them, and a program for each
    takes longer to compile than all of them to fetch.
    """
    if np.size(leaf) <= _SMALL and getattr(leaf, "is_fully_addressable", True):
        host = np.asarray(jax.device_get(leaf))
        host = host if host.dtype == np.float64 else host.astype(np.float32)
        return np.isfinite(host).all(), host.min()
    found: tuple[jax.Array, jax.Array] = _on_devices(leaf)
    return found


@jax.jit
def _on_devices(leaf: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.isfinite(leaf).all(), jnp.min(widen(leaf))


def _not_finite(name: str, tensor: Any, what: str) -> PruningError:
    return PruningError(
        f"{name} has {int(jnp.sum(~jnp.isfinite(tensor)))} NaN or infinite {what}: "
        "mend the training run, or prune a checkpoint from before they appeared"
    )

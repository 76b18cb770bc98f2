"""How many neurons of each group stay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.graph.layers import matching
from lap_jax.graph.neurons import NeuronGroup, Neurons
from lap_jax.graph.structure import Structure
from lap_jax.selection.scopes import Scope
from lap_jax.selection.sparsity import Sparsity, kept_count, sparsity_per_layer


def levels_of(neurons: Neurons, sparsity: Sparsity) -> tuple[float, ...]:
    """Return the sparsity of each group that can be pruned: the fraction of its neurons to remove.

    Args:
      neurons: the groups.
      sparsity: as in `lookahead_masks`. Keys of a mapping are names or patterns of layers that
        write the neurons, or kinds: "neurons", "heads", "streams".

    Raises:
      PruningError: as `sparsity_per_layer`; if no group can be pruned; or if a key asks to remove
        neurons of groups that are fixed.
    """
    free = neurons.free
    if not free:
        why = "; ".join(f"{group.name!r}: {group.fixed}" for group in neurons.groups)
        raise PruningError(f"no neurons can be removed: {why}")
    names = [group.name for group in free]
    if not isinstance(sparsity, Mapping):
        return sparsity_per_layer(sparsity, names)
    found: dict[str, float] = {}
    for exact in (True, False):
        for key, value in sparsity.items():
            held = _groups_of(neurons, key)
            if exact != (len(held) == 1):
                continue
            if value and all(group.fixed for group in held):
                raise PruningError(
                    f"sparsity: {key!r} cannot be pruned: {held[0].name!r} stays because "
                    f"{held[0].fixed}"
                )
            for group in held:
                found.setdefault(group.name, value)
    return sparsity_per_layer({name: found[name] for name in names if name in found}, names)


def _groups_of(neurons: Neurons, key: str) -> list[NeuronGroup]:
    """Return the groups that a key of a mapping names."""
    layers = [name for group in neurons.groups for name in (group.name, *group.writes)]
    kinds = {group.kind for group in neurons.groups}
    if key in ("neurons", "heads", "streams") and key not in layers:
        return [group for group in neurons.groups if group.kind == key]
    try:
        wanted = set(matching(key, dict.fromkeys((*layers, *kinds))))
    except PruningError as error:
        raise PruningError(f"sparsity: {error}") from None
    return [group for group in neurons.groups if wanted & {group.name, *group.writes}]


def kept_neurons(
    scope: Scope, neurons: Neurons, levels: Sequence[float], share: float = 1.0
) -> list[int]:
    """Return how many neurons of each group that can be pruned stay; for "global" of all together.

    Args:
      scope: a checked scope.
      neurons: the groups.
      levels: from `levels_of`.
      share: the part of the sparsity that is reached, of a run in steps.

    Raises:
      PruningError: if the scope asks for equal numbers that the sparsity, or a group that is fixed,
        does not allow.
    """
    free = neurons.free
    if scope.uniform:
        _check_uniform(neurons, levels)
    if scope.compare == "global":
        if len(set(levels)) > 1:
            raise PruningError(
                "global scope compares all neurons: give one sparsity for all, and pin layers of "
                "groups that are to stay"
            )
        return [kept_count(sum(group.width for group in free), levels[0] * share)]
    return [
        rounded(scope, group, kept_count(group.width, level * share))
        for group, level in zip(free, levels, strict=True)
    ]


def rounded(scope: Scope, group: NeuronGroup, count: Any) -> Any:
    """Return a number of neurons as the scope allows it: a multiple, and not too few.

    Args:
      scope: with ``multiple_of``, which counts channels, and ``at_least``, which counts neurons.
      group: of the neurons.
      count: a number, or a traced one.
    """
    step = scope.multiple_of // math.gcd(scope.multiple_of, group.channels)
    up = -(-count // step) * step
    if isinstance(up, int):
        return min(max(up, min(-(-scope.at_least // step) * step, group.width)), group.width)
    return jnp.clip(up, min(-(-scope.at_least // step) * step, group.width), group.width)


def evened(scope: Scope, neurons: Neurons, counts: Sequence[jax.Array]) -> list[jax.Array]:
    """Return numbers of neurons found by comparing all, as the scope allows them."""
    free = neurons.free
    if scope.uniform:
        families: dict[tuple[str, str, int, int], list[jax.Array]] = {}
        for group, count in zip(free, counts, strict=True):
            families.setdefault(group.family, []).append(count)
        means = {
            family: -(-sum(own, jnp.int32(0)) // len(own)) for family, own in families.items()
        }
        counts = [means[group.family] for group in free]
    return [rounded(scope, group, count) for group, count in zip(free, counts, strict=True)]


def _check_uniform(neurons: Neurons, levels: Sequence[float]) -> None:
    own = dict(zip((group.name for group in neurons.free), levels, strict=True))
    families: dict[tuple[str, str, int, int], list[NeuronGroup]] = {}
    for group in neurons.groups:
        families.setdefault(group.family, []).append(group)
    for groups in families.values():
        given = {own.get(group.name, 0.0) for group in groups}
        if len(given) > 1:
            names = ", ".join(
                f"{group.name!r}: {group.fixed or format(own[group.name], 'g')}" for group in groups
            )
            raise PruningError(
                f"scope: uniform asks for one width, the sparsity gives several ({names}): give "
                "all of them one sparsity, or leave uniform out"
            )


# ---------------------------------------------------------------- parameters


def parameters_left(
    graph: Structure, neurons: Neurons, shapes: Mapping[str, tuple[int, ...]], kept: Sequence[int]
) -> int:
    """Return how many parameters are left when so many neurons of each free group stay.

    Args:
      graph, neurons: the network.
      shapes: of its parameters, by path.
      kept: by group that can be pruned.
    """
    gone = {group.name: group.width - count for group, count in zip(neurons.free, kept, strict=True)}
    total = sum(math.prod(shape) for shape in shapes.values())

    def removed(name: str, side: str) -> int:
        if (name, side) not in neurons.sides:
            return 0
        numbers = neurons.sides[name, side].values
        return sum(
            gone.get(group.name, 0) * int((numbers == group.start).sum())
            for group in neurons.groups
        )

    kernels = set()
    for layer in graph.layers:
        if layer.tied_to or layer.path not in shapes:
            continue
        kernels.add(layer.path)
        out, into = removed(layer.name, "out"), 0
        if layer.groups == 1 or not layer.is_conv:
            into = removed(layer.name, "in") // layer.groups
        *window, fan_in, fan_out = layer.shape
        total -= layer.size - math.prod(window) * (fan_in - into) * (fan_out - out)
    for path, rows in neurons.vectors.items():
        if path in shapes and path not in kernels:
            entries, numbers = rows.values.T
            _, place, times = np.unique(entries, return_inverse=True, return_counts=True)
            alone = times[place] == 1
            for group in neurons.groups:
                total -= gone.get(group.name, 0) * int((alone & (numbers == group.start)).sum())
    return total

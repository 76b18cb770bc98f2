"""How many neurons of each group stay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.graph.graph import Graph
from lap_jax.graph.groups import NeuronGroup, Neurons
from lap_jax.graph.layers import matching
from lap_jax.paths import has_collections, shapes_by_path
from lap_jax.selection.scope import Scope, checked_scope
from lap_jax.selection.sparsity import Sparsity, kept_count, sparsity_per_layer


def neuron_groups(
    graph: Graph, sparsity: Sparsity | None = None, *, scope: Scope | None = None
) -> Neurons:
    """Return which neurons there are, and what would go: nothing is computed.

    Neurons are hidden neurons, channels of convolutions, heads of attention and channels of
    residual streams. What one of them is, the graph tells: the outputs and inputs of all layers
    that make or read it, with its biases and norms. ``print`` shows a table: groups, how many
    neurons of how many channels, how many are kept, who writes and reads them, and why some stay:
    the network returns them, a layer is pinned, or what becomes of them is not known.

    Args:
      graph: from `trace`, or `chain`.
      sparsity, scope: as in `lookahead_masks`, to count what is kept; a scope's ``queries`` tells
        what the heads are.

    Returns:
      The groups. Where a scope compares all neurons, how many of a group stay is not known yet.

    Raises:
      PruningError: for a graph without some of its edges, or as `lookahead_masks`.

    Example:
      >>> from lap_jax import chain
      >>> params = {"a": {"kernel": jnp.ones((4, 3))}, "b": {"kernel": jnp.ones((3, 2))}}
      >>> print(neuron_groups(chain(params, ["a", "b"]), 1 / 3))
      group  kind     neurons  kept  written by  read by  stays because
      -----  -------  -------  ----  ----------  -------  ----------------------
      a      neurons        3     2  a           b        -
      b      neurons        2     2  b           -        the network returns it
    """
    own = _of_neurons(scope)
    neurons = graph.neurons_by(own.queries)
    if sparsity is None:
        return neurons
    scope = own
    kept = kept_neurons(scope, neurons, levels_of(neurons, sparsity))
    if scope.compare == "global":
        return neurons
    names = [group.name for group in neurons.free]
    return replace(neurons, kept=dict(zip(names, kept, strict=True)))


def sparsity_within(
    params: Any, graph: Graph, parameters: int | None = None, *, multiply_adds: int | None = None,
    uses: Mapping[str, int] | None = None, scope: Scope | None = None, whole: Sequence[str] = (),
) -> dict[str, float]:  # fmt: skip
    """Return the sparsity at which a network of whole neurons is within a budget.

    One fraction for all groups, the least that is enough once numbers are rounded as the scope
    asks. What is counted is what `shrink` leaves.

    Args:
      params: the parameters; only shapes are read. Of Linen's variables the collection ``params``.
      graph: from `trace`, or `chain`.
      parameters: how many there may be at most.
      multiply_adds: how many the layers of the graph may do at most, on the inputs that ``uses`` is
        of. The products of attention, which have no weights, are not among them.
      uses: how often the weights of each layer are used, from `uses`; goes with ``multiply_adds``.
      scope: with ``unit="neuron"`` and its options, as for `lookahead_masks`.
      whole: names or patterns of layers, or kinds, such as "streams", whose neurons all stay.

    Returns:
      ``{group: sparsity}``, for `lookahead_masks`, `neuron_groups` or a schedule.

    Raises:
      PruningError: if even the fewest neurons are more than the budget, or there is none; for a
        scope that compares all neurons, where scores decide how many of which go; as
        `lookahead_masks`.

    Example:
      >>> from lap_jax import chain
      >>> params = {"a": {"kernel": jnp.ones((4, 8))}, "b": {"kernel": jnp.ones((8, 2))}}
      >>> graph = chain(params, ["a", "b"])
      >>> neuron_groups(graph, sparsity_within(params, graph, 20)).kept
      {'a': 3}
    """
    scope = _of_neurons(scope)
    neurons = graph.neurons_by(scope.queries)
    if scope.compare == "global":
        raise PruningError(
            "scope compares all neurons: how many of which group go, and with them how many "
            "parameters, is not known before the scores; use compare='layer'"
        )
    budgets, times = _budgets(parameters, multiply_adds, uses)
    left_whole = {group.name for key in whole for group in _groups_of(neurons, key)}
    own = params["params"] if has_collections(params) else params
    shapes = shapes_by_path(own)

    def levels(level: float) -> dict[str, float]:
        return {group.name: 0.0 if group.name in left_whole else level for group in neurons.free}

    def sizes(level: float) -> list[int]:
        found = levels_of(neurons, levels(level))
        kept = kept_neurons(scope, neurons, found)
        kernels = kernels_left(graph, neurons, kept)
        return [
            parameters_left(graph, neurons, shapes, kept) if what == "parameters"
            else sum(size * times.get(name, 0) for name, size in kernels.items())
            for what in budgets
        ]  # fmt: skip

    def fits(level: float) -> bool:
        return all(size <= budgets[what] for what, size in zip(budgets, sizes(level), strict=True))

    low, high = 0.0, 1 - 2.0**-30
    if fits(low):
        return levels(low)
    for (what, most), size in zip(budgets.items(), sizes(high), strict=True):
        if size > most:
            raise PruningError(
                f"the network has {size:,} {what} when the fewest neurons stay, and at most "
                f"{most:,} are asked for: ask for more, lower at_least or multiple_of, or prune "
                "more groups"
            )
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return levels(high)


def _budgets(
    parameters: int | None, multiply_adds: int | None, uses: Mapping[str, int] | None
) -> tuple[dict[str, int], Mapping[str, int]]:
    """Return what may be at most how much, and how often weights are used."""
    asked = {"parameters": parameters, "multiply-adds": multiply_adds}
    budgets = {what: most for what, most in asked.items() if most is not None}
    if not budgets:
        raise PruningError("there is no budget: give parameters, multiply_adds or both")
    if (multiply_adds is None) != (uses is None):
        raise PruningError(
            "multiply_adds go with uses, how often the weights of each layer are used: pass "
            "uses=lap_jax.uses(model, variables, *inputs, graph=graph)"
        )
    return budgets, uses or {}


def _of_neurons(scope: Scope | None) -> Scope:
    scope = checked_scope(Scope(unit="neuron") if scope is None else scope)
    if scope.unit != "neuron":
        raise PruningError(f"scope: unit is {scope.unit!r}, expected 'neuron'")
    return scope


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
    kinds = dict.fromkeys(group.kind for group in neurons.groups)
    if key in ("neurons", "heads", "streams") and key not in layers:
        found = [group for group in neurons.groups if group.kind == key]
        if not found:
            raise PruningError(f"sparsity: there are no {key} in the graph, but {', '.join(kinds)}")
        return found
    try:
        wanted = set(matching(key, dict.fromkeys(layers)))
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
        means = {family: -(-sum(own, jnp.int32(0)) // len(own)) for family, own in families.items()}
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


# ---------------------------------------------------------------- what is left


def _gone(neurons: Neurons, kept: Sequence[int]) -> dict[str, int]:
    return {
        group.name: group.width - count for group, count in zip(neurons.free, kept, strict=True)
    }


def kernels_left(graph: Graph, neurons: Neurons, kept: Sequence[int]) -> dict[str, int]:
    """Return the weights of each layer when so many neurons of each free group stay.

    Args:
      graph, neurons: the network.
      kept: by group that can be pruned.
    """
    gone = _gone(neurons, kept)

    def removed(name: str, side: str) -> int:
        if (name, side) not in neurons.sides:
            return 0
        numbers = neurons.sides[name, side].values
        return sum(
            gone.get(group.name, 0) * int((numbers == group.start).sum())
            for group in neurons.groups
        )

    found = {}
    for layer in graph.layers:
        out, into = removed(layer.name, "out"), 0
        if layer.groups == 1 or not layer.is_conv:
            into = removed(layer.name, "in") // layer.groups
        *window, fan_in, fan_out = layer.shape
        found[layer.name] = math.prod(window) * (fan_in - into) * (fan_out - out)
    return found


def parameters_left(
    graph: Graph, neurons: Neurons, shapes: Mapping[str, tuple[int, ...]], kept: Sequence[int]
) -> int:
    """Return how many parameters are left when so many neurons of each free group stay.

    Args:
      graph, neurons: the network.
      shapes: of its parameters, by path.
      kept: by group that can be pruned.
    """
    gone, left = _gone(neurons, kept), kernels_left(graph, neurons, kept)
    total = sum(math.prod(shape) for shape in shapes.values())
    kernels = set()
    for layer in graph.layers:
        if not layer.tied_to and layer.path in shapes:
            kernels.add(layer.path)
            total -= layer.size - left[layer.name]
    for path, rows in neurons.vectors.items():
        if path in shapes and path not in kernels:
            entries, numbers = rows.values.T
            _, place, times = np.unique(entries, return_inverse=True, return_counts=True)
            alone = times[place] == 1
            for group in neurons.groups:
                total -= gone.get(group.name, 0) * int((alone & (numbers == group.start)).sum())
    return total

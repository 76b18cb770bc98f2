"""What competes, layers or groups of neurons, and how much of it stays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lap_jax.errors import PruningError
from lap_jax.graph.graph import Graph
from lap_jax.methods import Method
from lap_jax.selection.scope import Scope
from lap_jax.selection.scopes import kept_units
from lap_jax.selection.sparsity import Sparsity, sparsity_per_layer
from lap_jax.selection.widths import kept_neurons, levels_of


def with_outputs(graph: Graph, scope: Scope) -> Graph:
    """Return the graph in which layers whose channels the network returns are pinned.

    Only where channels are removed, and the scope does not ask for those too.

    Raises:
      PruningError: if nothing is left to prune.
    """
    if scope.unit != "channel" or scope.axis != -1 or scope.outputs:
        return graph
    returned = graph.output_layers
    if not {layer.name for layer in graph.prunable} - set(returned):
        raise PruningError(
            "the network returns the output channels of every layer that could be pruned "
            f"({', '.join(map(repr, returned))}): ask for them with Scope(outputs=True), or remove "
            "input channels with axis=-2"
        )
    return graph.pin(*returned)


def levels_by_name(graph: Graph, scope: Scope, sparsity: Sparsity) -> dict[str, float]:
    """Return the sparsity of each layer, or of each group of neurons, that is pruned."""
    if scope.unit == "neuron":
        neurons = graph.neurons_by(scope.queries)
        names = [group.name for group in neurons.free]
        return dict(zip(names, levels_of(neurons, sparsity), strict=True))
    names = [layer.name for layer in graph.prunable]
    return dict(zip(names, sparsity_per_layer(sparsity, names, graph.names), strict=True))


def kept_by_step(
    graph: Graph, method: Method, scope: Scope, levels: Mapping[str, float]
) -> np.ndarray:
    """Return how many units stay after each step: uint32 ``[steps, layers]`` (global: 1 layer).

    Of neurons groups stand for layers.
    """
    own, shares = list(levels.values()), [(i + 1) / method.steps for i in range(method.steps)]
    if scope.unit == "neuron":
        neurons = graph.neurons_by(scope.queries)
        kept = [kept_neurons(scope, neurons, own, share) for share in shares]
    else:
        shapes = {layer.name: layer.shape for layer in graph.prunable}
        kept = [kept_units(scope, shapes, own, share) for share in shares]
    return np.array(kept, np.uint32)

"""Other ways to see the shortcuts of a network: graphs made from graphs."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np

from lap_jax.errors import PruningError
from lap_jax.graph.layers import IDENTITY, Edge, Factor, Junction, Norm
from lap_jax.graph.structure import Structure

G = TypeVar("G", bound=Structure)


def main_path(graph: G) -> G:
    """Return the graph without shortcuts: of a sum the branch through most layers stays.

    That is the order in which the paper and its code see a residual network. Layers that only a
    shortcut had, such as projections, are gone.
    """
    drop = set(_shortcuts(graph))
    edges = [edge for edge in graph.edges if edge not in drop]
    cut = replace(graph, edges=tuple(edges), partial=graph.partial or bool(drop))
    return fold_norms(_contracted(_without_dead(graph, cut)))


def identity_shortcuts(graph: G) -> G:
    """Return the graph with ones for what shortcuts bring, and for what becomes of it.

    Of a sum the branch through most layers stays, beside an identity branch; a layer that another
    branch came from keeps its next layer on the main path, beside an identity branch.
    """
    drop = dict.fromkeys(_shortcuts(graph))
    edges: dict[Edge, None] = {edge: None for edge in graph.edges if edge not in drop}
    for edge in drop:
        edges[Edge(IDENTITY, edge.target)] = None
        if edge.source != IDENTITY:
            edges[Edge(edge.source, IDENTITY)] = None
    return replace(graph, edges=tuple(edges), partial=graph.partial or bool(drop))


def direct(graph: G) -> G:
    """Return the graph with edges from layer to layer in place of sums.

    Raises:
      PruningError: where a junction is more than a plain sum of the same channels.
    """
    sums = {junction.name: junction for junction in graph.junctions}
    sources: dict[str, dict[str, float]] = {}
    for junction in graph.junctions:  # in order: what a junction reads comes before it
        found: dict[str, float] = {}
        for edge in graph.into(junction.name):
            if not edge.is_plain:
                break
            for name, scale in sources.get(edge.source, {edge.source: 1.0}).items():
                found[name] = found.get(name, 0.0) + scale * edge.scale
        else:
            if junction.kind == "sum" and not junction.factors:
                sources[junction.name] = found
    edges: dict[Edge, None] = {}
    for edge in graph.edges:
        if edge.target in sources:
            continue
        for end in (edge.source, edge.target):
            if end in sums and end not in sources:
                raise PruningError(
                    f"{end!r} ({sums[end].kind}) is more than a sum of layers: the exact "
                    "distortion of convolutions does not reach through it; use lags=False"
                )
        for name, scale in sources.get(edge.source, {edge.source: 1.0}).items():
            if IDENTITY not in (name, edge.target) or name != edge.target:
                edges[replace(edge, source=name, scale=scale * edge.scale)] = None
    return replace(graph, edges=tuple(edges), junctions=())


def fold_norms(graph: G) -> G:
    """Give layers the factors of the norms right behind them, which then need no junction.

    Other parameters that multiply, such as a layer scale, stay junctions: what is measured of a
    layer's outputs ends there.
    """
    factors: dict[str, tuple[Factor, ...]] = {}
    replaced: dict[str, str] = {}
    layers = {layer.name: layer for layer in graph.layers}
    for junction in graph.junctions:
        edges = graph.into(junction.name)
        if len(edges) != 1 or not edges[0].is_plain or edges[0].scale != 1:
            continue
        source = edges[0].source
        if (
            _is_norm(junction)
            and source in layers
            and not layers[source].factors
            and layers[source].out_size == junction.size
            and len(graph.out_of(source)) == 1
        ):
            # The scale first, as in a declared norm.
            factors[source] = tuple(sorted(junction.factors, key=lambda part: -part.power))
            replaced[junction.name] = source
    return replace(
        graph,
        layers=tuple(
            replace(layer, factors=factors.get(layer.name, layer.factors)) for layer in graph.layers
        ),
        junctions=tuple(part for part in graph.junctions if part.name not in replaced),
        edges=tuple(
            replace(edge, source=replaced.get(edge.source, edge.source))
            for edge in graph.edges
            if edge.target not in replaced
        ),
        returned=frozenset(replaced.get(name, name) for name in graph.returned),
        shared=tuple(
            replace(each, target=replaced.get(each.target, each.target)) for each in graph.shared
        ),
    )


def _is_norm(junction: Junction) -> bool:
    """Return whether a junction's factors are those of one norm, or some of them."""
    if junction.kind != "sum" or not junction.factors:
        return False
    stem = junction.factors[0].path.rpartition("/")[0]
    epsilon = sum(part.shift for part in junction.factors if part.power != 1)
    found = set(junction.factors)
    return len(found) == len(junction.factors) and found <= set(Norm(stem, epsilon).factors)


def _shortcuts(graph: Structure) -> list[Edge]:
    """Return the edges into sums that do not come through the most layers."""
    depths: dict[str, int] = {IDENTITY: 0}
    place = {layer.name: index for index, layer in enumerate(graph.layers)}

    def depth(name: str) -> int:
        stack = [name]
        while stack:
            top = stack[-1]
            sources = [edge.source for edge in graph.into(top)]
            missing = [source for source in sources if source not in depths]
            ahead = [source for source in missing if source not in stack]
            if ahead:
                stack += ahead
                continue
            own = max((depths.get(source, 0) for source in sources), default=0)
            depths[stack.pop()] = own + (top in place)
        return depths[name]

    found = []
    for junction in graph.junctions:
        edges = graph.into(junction.name)
        if junction.kind != "sum" or _is_concatenation(graph, junction):
            continue
        best = max(edges, key=lambda edge: (depth(edge.source), place.get(edge.source, -1)))
        found += [edge for edge in edges if edge is not best]
    return found


def _is_concatenation(graph: Structure, junction: Junction) -> bool:
    """Return whether no two edges reach the same input.

    An identity branch, whose size no graph tells, takes the inputs that the others leave.
    """
    times, identities = np.zeros(junction.size, int), 0
    for edge in graph.into(junction.name):
        if edge.source == IDENTITY:
            identities += 1
            continue
        pairs = edge.pairs_of(graph.parts[edge.source].out_size, junction.size)
        times[np.unique(pairs[:, 1])] += 1
    if identities:
        return identities == 1 and times.max() <= 1 and not times.all()
    return bool(times.max() <= 1)


def _without_dead(before: G, graph: G) -> G:
    """Remove what led somewhere before, and leads nowhere now."""
    while True:
        dead = {name for name in graph.parts if before.out_of(name) and not graph.out_of(name)}
        if not dead:
            return graph
        graph = replace(
            graph,
            layers=tuple(layer for layer in graph.layers if layer.name not in dead),
            junctions=tuple(part for part in graph.junctions if part.name not in dead),
            edges=tuple(edge for edge in graph.edges if edge.target not in dead),
        )


def _contracted(graph: G) -> G:
    """Remove sums of a single branch, which pass it on as it is."""
    for junction in graph.junctions:
        edges = graph.into(junction.name)
        if junction.factors or len(edges) != 1 or not edges[0].is_plain:
            continue
        (inner,) = edges
        kept = [part for part in graph.junctions if part.name != junction.name]
        graph = replace(
            graph,
            junctions=tuple(kept),
            edges=tuple(
                replace(edge, source=inner.source) if edge.source == junction.name else edge
                for edge in graph.edges
                if edge.target != junction.name
            ),
            returned=frozenset(
                inner.source if name == junction.name else name for name in graph.returned
            ),
        )
    return replace(graph, edges=tuple(replace(edge, scale=1.0) for edge in graph.edges))

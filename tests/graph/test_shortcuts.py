"""Graphs made from graphs, on graphs written by hand."""

from dataclasses import replace
from typing import Any

import pytest

from lap_jax import IDENTITY, Edge, Graph, Layer, Norm
from lap_jax.graph.layers import Factor, Index, Junction
from lap_jax.graph.shortcuts import direct, fold_norms
from tests.networks import refused


def layers(**sizes: tuple[int, int]) -> tuple[Layer, ...]:
    return tuple(Layer(name, f"{name}/kernel", shape) for name, shape in sizes.items())


def arrows(graph: Graph) -> list[tuple[str, str]]:
    return [(edge.source, edge.target) for edge in graph.edges]


def block(*edges: Edge, **junction: Any) -> Graph:
    """``stem``, then ``h + b(a(h))`` with a projection beside it, then ``head``."""
    return Graph(
        layers(stem=(3, 4), side=(4, 4), a=(4, 5), b=(5, 4), head=(4, 2)),
        edges
        or (
            Edge("stem", "a"), Edge("a", "b"), Edge("stem", "side"), Edge("b", "sum 0"),
            Edge("side", "sum 0"), Edge("sum 0", "head"),
        ),
        (Junction("sum 0", 4, **junction),),
    )  # fmt: skip


# ---------------------------------------------------------------- shortcuts


def test_the_main_path_is_the_branch_through_most_layers() -> None:
    main = block().main_path()
    assert main.names == ("stem", "a", "b", "head")
    assert arrows(main) == [("stem", "a"), ("a", "b"), ("b", "head")]
    assert main.junctions == ()
    assert block().names == ("stem", "side", "a", "b", "head")  # which is as it was


def test_shortcuts_become_identities() -> None:
    graph = block().identity_shortcuts()
    assert graph.names == block().names
    assert set(arrows(graph)) == {
        ("stem", "a"), ("a", "b"), ("stem", "side"), ("b", "sum 0"), (IDENTITY, "sum 0"),
        ("side", IDENTITY), ("sum 0", "head"),
    }  # fmt: skip


def test_a_main_path_keeps_what_multiplies_its_sum() -> None:
    factors = Norm("n").factors
    main = block(factors=factors).main_path()
    assert main.junctions == ()
    assert main["b"].factors == factors
    gate = block(factors=(Factor("gamma"),)).main_path()
    assert [junction.name for junction in gate.junctions] == ["sum 0"]
    assert arrows(gate)[-2:] == [("b", "sum 0"), ("sum 0", "head")]


def joined(*edges: Edge, size: int = 6) -> Graph:
    """Layers whose outputs lie side by side before a head."""
    return Graph(
        layers(a=(3, 4), b=(3, 2), head=(size, 2)),
        (*edges, Edge("cat 0", "head")),
        (Junction("cat 0", size),),
    )


CROSSED = Index([[0, 1], [1, 0], [2, 3], [3, 2]])
BEHIND = Index([[0, 5], [1, 4]])


@pytest.mark.parametrize(
    "edges",
    [
        (Edge("a", "cat 0"), Edge("b", "cat 0", offset=4)),
        (Edge("a", "cat 0", pairs=CROSSED), Edge("b", "cat 0", pairs=BEHIND)),
        # Pairs beside an edge in order were taken for a sum, and so was the input behind a layer.
        (Edge("a", "cat 0", pairs=CROSSED), Edge("b", "cat 0", offset=4)),
        (Edge("a", "cat 0"), Edge(IDENTITY, "cat 0")),
        (Edge(IDENTITY, "cat 0"), Edge("b", "cat 0", offset=4)),
    ],
)
def test_a_concatenation_has_no_shortcuts(edges: tuple[Edge, ...]) -> None:
    graph = joined(*edges)
    assert graph.main_path() == graph
    assert graph.identity_shortcuts() == graph


@pytest.mark.parametrize(
    "edges",
    [
        (Edge("a", "cat 0"), Edge(IDENTITY, "cat 0")),
        (Edge("a", "cat 0", pairs=CROSSED), Edge(IDENTITY, "cat 0")),
        (Edge("a", "cat 0"), Edge("b", "cat 0", offset=2)),
        (Edge("a", "cat 0", pairs=CROSSED), Edge("b", "cat 0")),
        (Edge("a", "cat 0"), Edge(IDENTITY, "cat 0"), Edge(IDENTITY, "cat 0", scale=0.5)),
    ],
)
def test_edges_that_meet_are_a_sum(edges: tuple[Edge, ...]) -> None:
    # Of branches of as many layers the later one stays, as it is deeper in the order of pruning.
    stays = "b" if edges[1].source == "b" else "a"
    found = joined(*edges, size=4).main_path()
    assert {source for source, _ in arrows(found)} - {"cat 0"} == {stays}


# ---------------------------------------------------------------- sums as edges


def test_direct_edges_multiply_scales_along_sums() -> None:
    graph = block(
        Edge("stem", "sum 0", scale=0.5), Edge("b", "sum 0", scale=3.0), Edge("sum 0", "sum 1"),
        Edge("side", "sum 1"), Edge("sum 1", "head", scale=2.0),
    )  # fmt: skip
    graph = replace(graph, junctions=(*graph.junctions, Junction("sum 1", 4)))
    found = direct(graph)
    assert found.junctions == ()
    scales = {(edge.source, edge.target): edge.scale for edge in found.edges}
    assert scales == {("stem", "head"): 1.0, ("b", "head"): 6.0, ("side", "head"): 2.0}
    assert all(edge.is_plain for edge in found.edges)


@pytest.mark.parametrize(
    "graph",
    [
        block(kind="product"),
        block(factors=(Factor("gamma"),)),
        joined(Edge("a", "cat 0"), Edge("b", "cat 0", offset=4)),
        joined(Edge("a", "cat 0", pairs=CROSSED), Edge("b", "cat 0")),
    ],
)
def test_junctions_that_are_more_than_a_sum_are_refused(graph: Graph) -> None:
    name = graph.junctions[0].name
    with refused(repr(name), "use lags=False"):
        direct(graph)


# ---------------------------------------------------------------- norms


def normed(*factors: Factor, kind: str = "sum", edge: Edge | None = None) -> Graph:
    return Graph(
        layers(a=(3, 4), b=(4, 2)),
        (edge or Edge("a", "sum 0"), Edge("sum 0", "b")),
        (Junction("sum 0", 4, kind, factors),),
    )


SCALE, VARIANCE = Norm("n", 1e-3).factors


@pytest.mark.parametrize("factors", [(SCALE, VARIANCE), (VARIANCE, SCALE), (SCALE,), (VARIANCE,)])
def test_a_layer_takes_the_norm_behind_it(factors: tuple[Factor, ...]) -> None:
    found = fold_norms(normed(*factors))
    assert found.junctions == ()
    assert found.edges == (Edge("a", "b"),)
    assert found["a"].factors == tuple(part for part in (SCALE, VARIANCE) if part in factors)
    assert found["a"].norm == "n"


@pytest.mark.parametrize(
    "graph",
    [
        normed(),
        normed(Factor("block/gamma")),
        normed(SCALE, Factor("other/var", -0.5, 1e-3)),
        normed(SCALE, SCALE),
        normed(Factor("n/scale", 1.0, 1.0)),
        normed(Factor("n/scale", 2.0)),
        normed(Factor("n/var")),
        normed(Factor("n/scale", entries=Index([3, 2, 1, 0]))),
        normed(SCALE, kind="product"),
        normed(SCALE, edge=Edge("a", "sum 0", scale=2.0)),
        normed(SCALE, edge=Edge("a", "sum 0", pairs=CROSSED)),
        normed(SCALE).connect(Edge("a", "b")),
        normed(SCALE).connect(Edge(IDENTITY, "sum 0")),
        replace(normed(SCALE), junctions=(Junction("sum 0", 5, "sum", (SCALE,)),)),
    ],
)
def test_what_is_no_norm_of_one_layer_stays_a_junction(graph: Graph) -> None:
    assert fold_norms(graph) == graph


def test_a_layer_with_a_norm_takes_no_other() -> None:
    graph = normed(SCALE)
    first = replace(graph.layers[0], factors=Norm("m").factors)
    graph = replace(graph, layers=(first, graph.layers[1]))
    assert fold_norms(graph) == graph

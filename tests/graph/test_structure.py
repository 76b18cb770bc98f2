"""Graphs tell their neighbours, and change without changing: pin, cut, connect."""

import pytest

from lap_jax import IDENTITY, Edge, Graph, Layer
from lap_jax.graph.layers import Barrier, Index, Junction
from tests.networks import refused

PLAIN = (Edge("a", "sum 0"), Edge("b", "sum 0"), Edge("sum 0", "head"))


def graph(*edges: Edge) -> Graph:
    """Two layers that a sum adds, before a head."""
    shapes = {"a": (3, 4), "b": (3, 4), "head": (4, 2)}
    layers = tuple(Layer(name, f"{name}/kernel", shape) for name, shape in shapes.items())
    return Graph(layers, edges or PLAIN, (Junction("sum 0", 4),))


def test_neighbours_in_order() -> None:
    found = graph()
    assert found.names == ("a", "b", "head")
    assert list(found.parts) == ["a", "b", "head", "sum 0"]
    assert found.into("sum 0") == PLAIN[:2]
    assert found.out_of("a") == PLAIN[:1]
    assert found.into("a") == found.out_of("head") == ()
    assert found["b"] is found.layers[1]
    with refused("no layer 'heads'", "nearest: 'head'"):
        found["heads"]


def test_graphs_compare_and_hash_by_value_but_for_barriers() -> None:
    lost = Barrier("sort", "", ("head",), (), "it mixes channels")
    told = Graph(graph().layers, PLAIN, graph().junctions, (lost,))
    assert told == graph()
    assert hash(told) == hash(graph())
    assert told != graph().pin("head")
    assert "head loses what comes after" in str(told)


def test_pinned_and_tied_layers_are_not_pruned() -> None:
    tied = Layer("head", "a/kernel", (4, 3), split=(3, 4), order=(1, 0), tied_to="a")
    layers = (*graph().layers[:2], tied)
    found = Graph(layers, PLAIN, graph().junctions)
    assert [layer.name for layer in found.prunable] == ["a", "b"]
    assert [layer.name for layer in found.pin("a").prunable] == ["b"]
    assert found.pin("a").pin("a").pinned == {"a"}
    assert "a (pinned)" in str(found.pin("a"))
    with refused("every layer is pinned"):
        found.pin("a", "b")
    with refused("no layer 'c'"):
        found.pin("c")


def test_cut_takes_all_edges_between_two() -> None:
    twice = graph(*PLAIN, Edge("a", "sum 0", pairs=Index([[0, 1]])))
    assert twice.cut("a", "sum 0").edges == PLAIN[1:]
    assert twice.edges[:3] == PLAIN  # which is as it was
    with refused("no edge leads from 'a' to 'head'", "nothing to cut"):
        graph().cut("a", "head")
    with refused("no layer or junction 'sum 1'", "nearest: 'sum 0'"):
        graph().cut("a", "sum 1")


@pytest.mark.parametrize(
    "edge",
    [
        Edge("b", "head"),
        Edge("b", "head", scale=0.5),
        Edge("b", "a", pairs=Index([[3, 2]])),
        Edge(IDENTITY, "head"),
        Edge("b", IDENTITY),
    ],
)
def test_connect_adds_edges_that_fit(edge: Edge) -> None:
    assert graph().connect(edge).edges == (*PLAIN, edge)


@pytest.mark.parametrize(
    "edge",
    [
        Edge("b", "a"),
        Edge("b", "head", offset=1),
        Edge("b", "head", offset=-1),
        Edge("head", "sum 0", positions=3),
        Edge("head", "sum 0", positions=0),
        Edge("head", "sum 0", positions=0.5),  # type: ignore[arg-type]
        Edge("b", "a", pairs=Index([[3, 3]])),
        Edge("b", "a", pairs=Index([[4, 2]])),
        Edge("b", "a", pairs=Index([[-1, 2]])),
        Edge("b", "a", pairs=Index([[0, 1, 2]])),
    ],
)
def test_connect_refuses_what_does_not_fit(edge: Edge) -> None:
    with refused(f"the edge from {edge.source!r}", f"does not fit {edge.target!r}", "mend"):
        graph().connect(edge)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("source", ["b", IDENTITY])
def test_connect_refuses_scales_that_no_norm_has(scale: float, source: str) -> None:
    with refused(f"from {source!r} to 'head'", f"scale {scale}", "0 or more"):
        graph().connect(Edge(source, "head", scale=scale))


def test_connect_knows_its_ends() -> None:
    for edge in (Edge("heads", "a"), Edge("a", "heads")):
        with refused("no layer or junction 'heads'", "nearest: 'head'"):
            graph().connect(edge)


def test_output_layers_are_found_through_junctions() -> None:
    first, second = Layer("a", "a/kernel", (3, 4)), Layer("b", "b/kernel", (4, 4))
    edges = (Edge("a", "b"), Edge("a", "sum 0"), Edge("b", "sum 0"))
    residual = Graph((first, second), edges, (Junction("sum 0", 4),))
    assert residual.output_layers == ("a", "b")
    assert Graph((first, second), edges[:1]).output_layers == ("b",)
    assert Graph((first, second), edges[:1], returned=frozenset("a")).output_layers == ("a", "b")

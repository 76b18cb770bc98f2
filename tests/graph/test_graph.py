"""A graph prints as a table of its parts, and leads to pictures and to other graphs."""

from pathlib import Path

import pytest

from lap_jax import Edge, Graph, Layer, Norm, chain
from lap_jax.graph.drawing import svg
from lap_jax.graph.layers import Barrier, Factor, Index, Junction
from lap_jax.graph.shortcuts import identity_shortcuts, main_path
from tests.networks import norms_of, tree


def residual() -> Graph:
    """``head(gamma * (a(x) + b(a(x))))``, beside it a stack of which one layer is read by pairs."""
    norm = Norm("n").factors
    layers = (
        Layer("a", "a/kernel", (3, 3, 2, 4), groups=2, strides=2, pool=3, factors=norm),
        Layer("b", "b/kernel", (4, 4)),
        Layer("stack", "stack", (4, 2), place=(1, 0)),
        Layer("head", "head/kernel", (24, 2)),
    )
    edges = (
        Edge("a", "b"), Edge("a", "sum 0"), Edge("b", "sum 0"), Edge("sum 0", "head", 4, 2),
        Edge("b", "stack", pairs=Index([[0, 1], [1, 0], [2, 2]])),
    )  # fmt: skip
    junction = Junction("sum 0", 4, factors=(Factor("gamma", 2.0),), where="model.py:7")
    barrier = Barrier("sort", "model.py:9", ("stack",), (), "it mixes channels")
    return Graph(layers, edges, (junction,), (barrier,))


def test_it_prints_as_a_table() -> None:
    params = tree(Conv_0=(3, 3, 2, 4), Conv_1=(3, 3, 4, 6), Dense_0=(24, 3))
    norms, stats = norms_of(4)
    graph = chain(params | norms, ["Conv_0", "BatchNorm_0", "Conv_1", "Dense_0"], stats)
    wide = "layer    kernel          shape    in  out  norm         previous             next"
    assert str(graph).splitlines() == [
        wide,
        "-------  --------------  -------  --  ---  -----------  -------------------  " + "-" * 20,
        "Conv_0   Conv_0/kernel   3x3x2x4   2    4  BatchNorm_0  -                    Conv_1",
        "Conv_1   Conv_1/kernel   3x3x4x6   4    6  -            Conv_0               "
        "Dense_0 x4 positions",
        "Dense_0  Dense_0/kernel  24x3     24    3  -            Conv_1 x4 positions  -",
    ]


def test_junctions_barriers_and_details_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lap_jax.tables.MOST", 200)
    layers, junctions, barriers = str(residual().pin("b")).split("\n\n")
    rows = {line.split()[0]: line for line in layers.splitlines()[2:]}
    assert list(rows) == ["a", "b", "stack", "head"]
    for name, cells in {
        "a": ("3x3x2x4 (groups=2, strides=2, pool=3)", " n ", "b, sum 0"),
        "b": ("b (pinned)", "sum 0, stack by 3 pairs"),
        "stack": ("stack[1][0]", "b by 3 pairs"),
        "head": ("sum 0 x4 positions at 2",),
    }.items():
        for cell in cells:
            assert cell in rows[name], (name, cell)
    assert junctions.splitlines() == [
        "junction  channels  times    previous  next                    line",
        "--------  --------  -------  --------  ----------------------  ----------",
        "sum 0            4  gamma^2  a, b      head x4 positions at 2  model.py:7",
    ]
    assert barriers.startswith("barrier: sort at model.py:9: it mixes channels; stack loses")


def test_it_leads_to_graphs_without_shortcuts_and_to_a_picture(tmp_path: Path) -> None:
    graph = residual()
    assert graph.main_path() == main_path(graph)
    assert graph.identity_shortcuts() == identity_shortcuts(graph)
    assert isinstance(graph.main_path(), Graph)
    graph.draw(str(tmp_path / "graph.svg"))
    assert (tmp_path / "graph.svg").read_text() == svg(graph)

"""A picture has a box for every part and a line for every edge between them."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from lap_jax import IDENTITY, Edge, Graph, Layer, Norm
from lap_jax.graph.drawing import svg
from lap_jax.graph.layers import Barrier, Factor, Junction

SPACE = "{http://www.w3.org/2000/svg}"
EDGES = (
    Edge("a", "sum 0"), Edge(IDENTITY, "sum 0"), Edge("sum 0", "b"), Edge("a", "b"),
    Edge("b", IDENTITY),
)  # fmt: skip


def graph() -> Graph:
    first = Layer("a", "a/kernel", (3, 3, 2, 4), factors=Norm("n").factors)
    second = Layer("b", "b/kernel", (4, 2))
    lost = Barrier("sort", "", ("c",), (), "it mixes channels")
    junction = Junction("sum 0", 4, factors=(Factor("gamma"),))
    third = Layer("c", "c/kernel", (4, 2))
    return Graph((first, second, third), EDGES, (junction,), (lost,)).pin("b")


def test_boxes_and_lines() -> None:
    tree = ElementTree.fromstring(svg(graph()))
    titles = {node.text for node in tree.iter(f"{SPACE}title")}
    assert titles == {"a: 3x3x2x4, n", "b: 4x2", "c: 4x2", "sum 0: gamma"}
    # Identity has no box, and so no line.
    assert len(list(tree.iter(f"{SPACE}path"))) == 3
    fills = {group.find(f"{SPACE}title"): group for group in tree.iter(f"{SPACE}g")}
    found = {
        title.text: group.find(f"{SPACE}rect")
        for title, group in fills.items()
        if title is not None
    }
    colours = {text: box.get("fill") for text, box in found.items() if box is not None}
    assert len(set(colours.values())) == 4  # a layer, a pinned one, one at a barrier, a junction


def test_what_feeds_lies_above() -> None:
    tree = ElementTree.fromstring(svg(graph()))
    heights = {}
    for group in tree.iter(f"{SPACE}g"):
        title, box = group.find(f"{SPACE}title"), group.find(f"{SPACE}rect")
        assert title is not None
        assert box is not None
        heights[str(title.text).split(":")[0]] = float(box.get("y", ""))
    assert heights["a"] < heights["sum 0"] < heights["b"]


def test_a_loop_can_be_drawn() -> None:
    looped = graph().cut("a", "b").connect(Edge("b", "sum 0", pairs=None, offset=2))
    assert "sum 0" in svg(looped)


def test_names_are_escaped_and_cut_short() -> None:
    name = "<block & " + "x" * 40
    only = Graph((Layer(name, "k", (2, 2)),), ())
    tree = ElementTree.fromstring(svg(only))
    assert [node.text for node in tree.iter(f"{SPACE}title")] == [f"{name}: 2x2"]
    first = next(tree.iter(f"{SPACE}text")).text
    assert first is not None
    assert len(first) == 30
    assert first.startswith("…")


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    graph().draw(str(tmp_path / "model.svg"))
    assert [path.name for path in tmp_path.iterdir()] == ["model.svg"]
    assert (tmp_path / "model.svg").read_text() == svg(graph())
    with pytest.raises(OSError, match="missing"):
        graph().draw(str(tmp_path / "missing" / "model.svg"))

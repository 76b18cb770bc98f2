"""The summary counts what masks keep, layer by layer."""

from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import strategies as st

from lap_jax import Edge, Graph, Layer, PruningError, chain, lookahead_masks, summarize, trace
from lap_jax.graph.layers import Index, Junction
from tests import oracle


def masks_of(**kernels: Any) -> Any:
    return {
        name: {"kernel": jnp.asarray(kernel, bool), "bias": jnp.asarray(True)}
        for name, kernel in kernels.items()
    }


def test_counts_shapes_and_sparsity() -> None:
    params = oracle.dense_tree(np.random.default_rng(0), [8, 10, 12, 4])
    graph = chain(params, list(params))
    masks = lookahead_masks(params, graph, [0.25, 0.5, 0.75])
    for summary in (summarize(masks), summarize(masks, graph)):
        rows = summary.rows
        assert [row.layer for row in rows] == list(params)
        assert [row.shape for row in rows] == [(8, 10), (10, 12), (12, 4)]
        assert [row.size for row in rows] == [80, 120, 48]
        assert [row.kept for row in rows] == [60, 60, 12]
        assert [row.sparsity for row in rows] == pytest.approx([0.25, 0.5, 0.75])
        assert (summary.total.size, summary.total.kept) == (248, 132)
        assert summary.total.sparsity == pytest.approx(1 - 132 / 248)
        assert all(type(row.kept) is int and type(row.size) is int for row in rows)


def graph_of(masks: Any, *names: str) -> Graph:
    """A chain of layers of the masks' shapes."""
    params = jax.tree.map(lambda mask: np.ones(np.shape(mask), np.float32), masks)
    return chain(params, names)


def test_a_neuron_without_inputs_is_dead() -> None:
    masks = masks_of(a=[[1, 0, 1], [1, 0, 0]], b=[[1, 1], [1, 1], [1, 1]])
    assert [row.dead for row in summarize(masks).rows] == [1, 0]
    assert summarize(masks).total.dead == 1


def test_a_neuron_without_a_way_out_is_dead_where_the_graph_tells() -> None:
    masks = masks_of(a=[[1, 1, 1], [1, 0, 1]], b=[[1, 1], [0, 0], [0, 1]])
    assert [row.dead for row in summarize(masks).rows] == [0, 0]
    rows = summarize(masks, graph_of(masks, "a", "b")).rows
    assert [row.dead for row in rows] == [
        1,
        0,
    ]


def test_dead_both_ways_counts_once() -> None:
    masks = masks_of(a=[[1, 0, 1], [1, 0, 1]], b=[[1, 1], [0, 0], [0, 1]])
    rows = summarize(masks, graph_of(masks, "a", "b")).rows
    assert [row.dead for row in rows] == [
        1,
        0,
    ]


def test_a_channel_lives_if_any_flattened_position_reads_it() -> None:
    """Two channels, three positions: rows 0, 2, 4 of the dense kernel belong to channel 0."""
    conv = np.ones((1, 1, 3, 2), bool)
    dense = np.zeros((6, 2), bool)
    dense[4, 1] = True
    masks = masks_of(conv=conv, dense=dense)
    assert [row.dead for row in summarize(masks, graph_of(masks, "conv", "dense")).rows] == [1, 1]


def test_a_depthwise_channel_is_read_by_its_own_group() -> None:
    depthwise = np.ones((3, 3, 1, 2), bool)
    depthwise[..., 1] = False
    masks = masks_of(a=np.ones((1, 1, 3, 2)), b=depthwise)
    rows = summarize(masks, graph_of(masks, "a", "b")).rows
    assert [row.dead for row in rows] == [
        1,
        1,
    ]


@st.composite
def reading(draw: st.DrawFn) -> tuple[Graph, dict[str, np.ndarray]]:
    """Two layers, and a sum of both before a third; edges of any kind, masks of any kind."""
    sizes = {"a": (2, 3), "b": (2, 4), "sum 0": (8, 8), "c": (8, 2)}

    def edge(source: str, target: str) -> Edge:
        size, width = sizes[source][1], sizes[target][0]
        if draw(st.booleans()):
            ends = st.tuples(st.integers(0, size - 1), st.integers(0, width - 1))
            pairs = draw(st.lists(ends, unique=True, max_size=10))
            return Edge(source, target, pairs=Index(np.array(pairs, int).reshape(-1, 2)))
        positions = draw(st.sampled_from([n for n in (1, 2) if size <= width // n]))
        return Edge(source, target, positions, draw(st.integers(0, width // positions - size)))

    layers = tuple(Layer(name, f"{name}/kernel", sizes[name]) for name in "abc")
    ends = [("a", "sum 0"), ("b", "sum 0"), ("sum 0", "c"), ("a", "c")]
    graph = Graph(layers, tuple(edge(*each) for each in ends), (Junction("sum 0", 8),))
    masks = {
        layer.name: np.array(
            draw(st.lists(st.booleans(), min_size=layer.size, max_size=layer.size))
        ).reshape(layer.shape)
        for layer in layers
    }
    return graph, masks


@hypothesis.given(reading())
def test_dead_neurons_are_those_that_no_path_of_pairs_leads_on(
    case: tuple[Graph, dict[str, np.ndarray]],
) -> None:
    graph, masks = case

    def leads_on(name: str, channel: int) -> bool:
        if name == "c":
            return True
        for edge in graph.out_of(name):
            pairs = edge.pairs_of(graph.parts[name].out_size, graph.parts[edge.target].in_size)
            for _, entry in pairs[pairs[:, 0] == channel]:
                read = edge.target != "c" or masks["c"][entry].any()
                if read and leads_on(edge.target, entry if edge.target != "c" else 0):
                    return True
        return False

    found = summarize({name: {"kernel": mask} for name, mask in masks.items()}, graph)
    for row, layer in zip(found.rows, graph.layers, strict=True):
        alive = [
            masks[layer.name][:, channel].any() and leads_on(layer.name, channel)
            for channel in range(layer.out_size)
        ]
        assert (row.layer, row.dead) == (layer.name, layer.out_size - sum(alive))


def test_it_prints_as_a_table() -> None:
    params = oracle.dense_tree(np.random.default_rng(0), [80, 100, 40])
    graph = chain(params, list(params))
    text = str(summarize(lookahead_masks(params, graph, 0.9), graph))
    lines = text.splitlines()
    for head in ("layer", "shape", "kept", "sparsity", "dead"):
        assert head in lines[0]
    assert "80x100" in text
    assert "8,000" in text
    assert "90.00%" in text
    assert lines[-1].split()[0] == "total"
    assert "1,200" in lines[-1]
    assert len({len(line) for line in lines}) == 1


def test_the_rows_follow_the_graph() -> None:
    masks = masks_of(z=np.ones((3, 4)), a=np.ones((4, 2)))
    rows = summarize(masks, graph_of(masks, "z", "a")).rows
    assert [row.layer for row in rows] == [
        "z",
        "a",
    ]


def test_nnx_states_are_summarized_by_the_same_names() -> None:
    class Net(nnx.Module):
        def __init__(self) -> None:
            self.first = nnx.Linear(6, 10, rngs=nnx.Rngs(0))
            self.second = nnx.Linear(10, 5, rngs=nnx.Rngs(1))

    params = nnx.state(Net(), nnx.Param)
    graph = chain(params, ["first", "second"])
    summary = summarize(lookahead_masks(params, graph, 0.5), graph)
    assert [(row.layer, row.kept) for row in summary.rows] == [("first", 30), ("second", 25)]


def test_a_graph_of_other_layers_is_refused() -> None:
    masks = masks_of(a=np.ones((3, 4)))
    other = {"b": {"kernel": np.ones((3, 4), np.float32)}}
    with pytest.raises(PruningError, match="'b/kernel' in masks"):
        summarize(masks, chain(other, ["b"]))
    wider = {"a": {"kernel": np.ones((3, 5), np.float32)}}
    with pytest.raises(PruningError, match=r"'a' has shape \(3, 4\) in masks and \(3, 5\) in the"):
        summarize(masks, chain(wider, ["a"]))


def test_masks_without_a_kernel_are_refused() -> None:
    with pytest.raises(PruningError, match="the masks hold no kernel"):
        summarize({"bias": jnp.asarray(True)})


def test_weights_that_no_layer_holds_count_in_the_total() -> None:
    params = {"a": {"kernel": jnp.ones((4, 4))}, "lost": {"kernel": jnp.ones((4, 3))},
              "b": {"kernel": jnp.ones((4, 2))}, "bias": jnp.ones((2, 2))}  # fmt: skip

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = (x @ p["a"]["kernel"]) @ jnp.sort(p["lost"]["kernel"]).repeat(2, 1)[:, :4]
        return (h @ p["b"]["kernel"]).reshape(1, 1, 2) + p["bias"]

    graph = trace(model, params, jnp.ones((1, 4)))
    with pytest.warns(UserWarning, match=r"1 leaf is not in the graph.*lost/kernel"):
        masks = lookahead_masks(params, graph, 0.5)
    *_, last = summarize(masks, graph).rows
    assert (last.layer, last.size, last.kept) == ("not in the graph", 12, 12)
    assert summarize(masks, graph).total.size == 16 + 8 + 12
    assert "not in the graph" in str(summarize(masks, graph))

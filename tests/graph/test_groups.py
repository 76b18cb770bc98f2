"""Groups of neurons of well-known networks, told by shapes alone."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import lap_jax
from lap_jax import IDENTITY, Edge, Graph, Layer, PruningError
from tests import zoo


def traced(model: Any, *shape: int, dtype: Any = jnp.float32) -> Graph:
    x = jax.ShapeDtypeStruct(shape, dtype)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape, dtype)))
    return lap_jax.trace(model, variables, x)


def told(graph: Graph) -> dict[str, tuple[str, int, int, bool]]:
    return {
        group.name: (group.kind, group.width, group.channels, not group.fixed)
        for group in graph.neurons.groups
    }


LLAMA = zoo.Llama(layers=1, width=16, heads=4, kv_heads=2, hidden=12, vocabulary=11)


def test_a_decoder_has_a_stream_heads_that_share_keys_and_gated_neurons() -> None:
    graph = traced(LLAMA, 1, 5, dtype=jnp.int32)
    assert told(graph) == {
        "tokens": ("streams", 16, 1, True),
        "layers_0/q": ("heads", 2, 8, True),
        "layers_0/gate": ("neurons", 12, 1, True),
        "head": ("neurons", 11, 1, False),
    }
    stream, heads, gated, _ = graph.neurons.groups
    assert stream.writes == ("tokens", "layers_0/o", "layers_0/down")
    assert stream.reads[-1] == "head"
    assert heads.writes == ("layers_0/q", "layers_0/k", "layers_0/v")
    assert heads.reads == ("layers_0/o",)
    assert gated.writes == ("layers_0/gate", "layers_0/up")
    # grouped queries by an einsum instead of a repeat are the same neurons
    other = traced(LLAMA.clone(repeat=False), 1, 5, dtype=jnp.int32).neurons
    assert [group for group in other.groups] == [group for group in graph.neurons.groups]
    assert other.sides["layers_0/o", "in"] == graph.neurons.sides["layers_0/o", "in"]
    assert graph.neurons.vectors["norm/scale"].values.tolist() == [[i, i] for i in range(16)]


def test_streams_are_left_alone_by_a_pin() -> None:
    graph = traced(LLAMA, 1, 5, dtype=jnp.int32).pin("tokens")
    assert [group.name for group in graph.neurons.free] == ["layers_0/q", "layers_0/gate"]
    assert graph.neurons.groups[0].fixed == "'tokens' is pinned"


def test_a_fused_kernel_holds_whole_heads_and_a_table_of_positions_goes_with_the_stream() -> None:
    graph = traced(zoo.GPT2(1, 8, 2, 11, 16), 1, 5, dtype=jnp.int32)
    assert told(graph) == {
        "tokens": ("streams", 8, 1, True),
        "layers_0/qkv": ("heads", 2, 12, True),
        "layers_0/up": ("neurons", 32, 1, True),
        "tokens (read 2)": ("neurons", 11, 1, False),
    }
    rows = graph.neurons.vectors["positions/embedding"].values
    assert len(rows) == 16 * 8  # all positions, not only the five that were read
    assert (rows[:, 0] % 8 == rows[:, 1]).all()


def test_what_stands_beside_a_stream_fixes_it() -> None:
    graph = traced(zoo.ViT(1, 8, 2, 16, 4, 3), 1, 8, 8, 3)
    stream, heads, hidden, _ = graph.neurons.groups
    assert stream.fixed.startswith("'token' is put in its place, or beside it, at tests/zoo.py")
    assert (heads.kind, heads.width, heads.channels, heads.fixed) == ("heads", 2, 4, "")
    assert (hidden.kind, hidden.width, hidden.fixed) == ("neurons", 16, "")
    assert not traced(zoo.ViT(1, 8, 2, 16, 4, 3, token=False), 1, 8, 8, 3).neurons.groups[0].fixed


def test_convolutional_networks() -> None:
    rows = ((1, 4, 1, 1), (2, 6, 2, 2))
    mobile = traced(zoo.MobileNetV2(rows, 4, 8, 3), 1, 16, 16, 3)
    expanded = mobile.neurons.groups[1]
    assert expanded.writes == ("InvertedResidual_1/expand", "InvertedResidual_1/depthwise")
    assert expanded.reads == ("InvertedResidual_1/depthwise", "InvertedResidual_1/project")
    assert told(mobile)["InvertedResidual_1/project"] == ("streams", 6, 1, True)
    stage = traced(zoo.ResNet((1, 2), 2, 3), 1, 16, 16, 3).neurons.groups[6]
    assert stage.kind == "streams"
    assert stage.writes == ("Bottleneck_1/Conv_2", "Bottleneck_1/shortcut", "Bottleneck_2/Conv_2")
    assert stage.reads == ("Bottleneck_2/Conv_0", "Dense_0")
    dense = traced(zoo.DenseNet((2,), 2, 3), 1, 16, 16, 3).neurons
    assert dense.groups[0].reads == ("DenseLayer_0/Conv_0", "DenseLayer_1/Conv_0", "Dense_0")
    assert dense.groups[2].reads == ("DenseLayer_1/Conv_0", "Dense_0")
    flat = traced(zoo.ConvNet((4, 6), 8, 3), 1, 8, 8, 2).neurons  # six channels at four positions
    assert flat.sides["Dense_0", "in"].values.tolist() == [*range(4, 10)] * 4


def test_what_nobody_can_tell_stays() -> None:
    lstm = traced(zoo.LSTM(11, 4, 6), 1, 5, dtype=jnp.int32).neurons.groups[2]
    assert lstm.fixed.startswith("barrier: scan")
    layers = (Layer("a", "a", (3, 4)), Layer("b", "b", (4, 4)), Layer("c", "c", (4, 2)))
    graph = Graph(layers, (Edge("a", "b"), Edge("b", "c"), Edge(IDENTITY, "b")))
    assert [group.fixed for group in graph.neurons.groups] == [
        "the network's input is part of it", "", "the network returns it"]  # fmt: skip


def test_tied_weights_are_one_neuron_where_rows_are_columns() -> None:
    def model(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        h = jax.nn.relu(x @ p["w"] + p["b"])
        z = jax.nn.relu(h @ p["v"])
        return jax.nn.relu(z @ p["v"].T) @ p["w"].T

    shapes = {"w": (6, 8), "v": (8, 4), "b": (8,)}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    neurons = lap_jax.trace(model, params, jax.ShapeDtypeStruct((1, 6), jnp.float32)).neurons
    assert neurons.groups[0].writes == ("w", "v (read 2)")
    assert [group.width for group in neurons.free] == [8, 4]


def test_a_graph_without_some_edges_is_refused() -> None:
    graph = traced(LLAMA, 1, 5, dtype=jnp.int32)
    for other in (graph.main_path(), graph.identity_shortcuts(), graph.cut("tokens", "sum 8")):
        with pytest.raises(PruningError, match=r"^edges of the graph were left out"):
            _ = other.neurons


def test_the_table_says_who_writes_and_reads() -> None:
    params = {name: {"kernel": jnp.ones((3, 3))} for name in "ab"}
    assert str(lap_jax.chain(params, ["a", "b"]).neurons) == "\n".join(
        (
            "group  kind     neurons  written by  read by  stays because",
            "-----  -------  -------  ----------  -------  ----------------------",
            "a      neurons        3  a           b        -",
            "b      neurons        3  b           -        the network returns it",
        )
    )

"""A declared chain becomes a graph: what is inferred, and how it may be declared."""

import dataclasses
from typing import Any

import chex
import jax
import numpy as np
import pytest

from lap_jax import (
    IDENTITY,
    Graph,
    LayerSpec,
    Norm,
    chain,
    lookahead_masks,
)
from tests import oracle
from tests.networks import norms_of, tree


def links(graph: Graph, name: str) -> tuple[list[str], list[str]]:
    return (
        [edge.source for edge in graph.into(name)],
        [edge.target for edge in graph.out_of(name)],
    )


def test_an_mlp_is_one_line() -> None:
    params = oracle.dense_tree(np.random.default_rng(0), [5, 7, 6, 4])
    graph = chain(params, ["Dense_0", "Dense_1", "Dense_2"])
    assert [layer.name for layer in graph.layers] == ["Dense_0", "Dense_1", "Dense_2"]
    assert [layer.path for layer in graph.layers] == [f"Dense_{i}/kernel" for i in range(3)]
    assert [layer.shape for layer in graph.layers] == [(5, 7), (7, 6), (6, 4)]
    assert [layer.in_size for layer in graph.layers] == [5, 7, 6]
    assert [layer.out_size for layer in graph.layers] == [7, 6, 4]
    assert all(layer.factors == () for layer in graph.layers)
    assert all(layer.groups == 1 for layer in graph.layers)
    assert links(graph, "Dense_0") == ([], ["Dense_1"])
    assert links(graph, "Dense_1") == (["Dense_0"], ["Dense_2"])
    assert links(graph, "Dense_2") == (["Dense_1"], [])


def test_a_graph_is_frozen_hashable_and_equal_to_its_twin() -> None:
    params = oracle.dense_tree(np.random.default_rng(0), [5, 7, 4])
    graph, twin = (chain(params, ["Dense_0", "Dense_1"]) for _ in range(2))
    assert graph == twin
    assert hash(graph) == hash(twin)
    assert graph != chain(params, ["Dense_0"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        graph.layers = ()  # type: ignore[misc]
    masks = jax.jit(lookahead_masks, static_argnums=(1, 2))(params, graph, 0.5)
    chex.assert_trees_all_equal(masks, lookahead_masks(params, twin, 0.5))


def test_a_string_after_a_layer_may_be_its_norm() -> None:
    params = tree(Conv_0=(3, 3, 2, 4), Conv_1=(3, 3, 4, 6), Dense_0=(6, 3))
    norms, stats = norms_of(4, 6)
    names = ["Conv_0", "BatchNorm_0", "Conv_1", "BatchNorm_1", "Dense_0"]
    graph = chain(params | norms, names, stats)
    assert [layer.name for layer in graph.layers] == ["Conv_0", "Conv_1", "Dense_0"]
    assert [layer.factors for layer in graph.layers] == [
        Norm("BatchNorm_0").factors,
        Norm("BatchNorm_1").factors,
        (),
    ]
    named = chain(
        params | norms,
        [
            LayerSpec("Conv_0", norm="BatchNorm_0"),
            LayerSpec("Conv_1/kernel", norm=Norm("BatchNorm_1", epsilon=1e-5)),
            "Dense_0",
        ],
        stats,
    )
    assert graph == named


def test_a_norm_without_parameters_is_found_in_the_statistics() -> None:
    params = tree(Dense_0=(3, 4), Dense_1=(4, 2))
    _, stats = norms_of(4)
    graph = chain(params, ["Dense_0", "BatchNorm_0", "Dense_1"], stats)
    assert graph.layers[0].factors == Norm("BatchNorm_0").factors[1:]


def test_groups_come_from_the_shapes() -> None:
    params = tree(a=(1, 1, 3, 8), b=(3, 3, 1, 8), c=(3, 3, 4, 6), d=(3, 3, 6, 5))
    graph = chain(params, ["a", "b", "c", "d"])
    assert [layer.groups for layer in graph.layers] == [1, 8, 2, 1]
    assert [layer.in_size for layer in graph.layers] == [3, 8, 8, 6]
    assert [layer.out_size for layer in graph.layers] == [8, 8, 6, 5]


def test_a_flatten_comes_from_the_shapes() -> None:
    params = tree(conv=(3, 3, 2, 4), dense=(5 * 5 * 4, 6), after=(6, 3))
    graph = chain(params, ["conv", "dense", "after"])
    (edge,) = graph.into("dense")
    assert (edge.source, edge.positions) == ("conv", 25)
    assert graph.into("after")[0].positions == 1


def test_global_pooling_is_a_flatten_of_one_position() -> None:
    graph = chain(tree(conv=(3, 3, 2, 4), dense=(4, 6)), ["conv", "dense"])
    assert graph.into("dense")[0].positions == 1


def test_three_and_one_dimensional_convolutions_are_layers_too() -> None:
    params = tree(a=(5, 2, 4), b=(5, 4, 6), c=(7 * 6, 3))
    graph = chain(params, ["a", "b", "c"])
    assert graph.into("c")[0].positions == 7
    params = tree(a=(2, 2, 2, 2, 4), b=(3, 3, 3, 4, 6))
    assert chain(params, ["a", "b"]).layers[1].in_size == 4


def test_layers_of_equal_size_are_summed_and_others_concatenated() -> None:
    params = tree(a=(3, 4), b=(3, 4), c=(3, 6), sum=(4, 2), concat=(10, 2), dense_net=(14, 2))
    graph = chain(
        params,
        [
            "a",
            LayerSpec("b", previous=()),
            LayerSpec("c", previous=()),
            LayerSpec("sum", previous=("a", "b")),
            LayerSpec("concat", previous=("b", "c")),
            LayerSpec("dense_net", previous=("a", "b", "c")),
        ],
    )
    assert [edge.offset for edge in graph.into("sum")] == [0, 0]
    assert [edge.offset for edge in graph.into("concat")] == [0, 4]
    assert [edge.offset for edge in graph.into("dense_net")] == [0, 4, 8]
    assert links(graph, "b") == ([], ["sum", "concat", "dense_net"])


def test_the_identity_may_be_a_neighbour() -> None:
    params = tree(a=(3, 4), b=(4, 4), c=(4, 2))
    graph = chain(
        params,
        [LayerSpec("a", next=("b", IDENTITY)), "b", LayerSpec("c", previous=("b", IDENTITY))],
    )
    assert sorted(links(graph, "a")[1]) == sorted(["b", IDENTITY])
    assert sorted(links(graph, "c")[0]) == sorted(["b", IDENTITY])


def test_one_neighbour_needs_no_tuple() -> None:
    params = tree(a=(3, 4), b=(4, 4), c=(4, 2))
    one = chain(params, ["a", "b", LayerSpec("c", previous="a")])
    two = chain(params, ["a", "b", LayerSpec("c", previous=["a"])])
    assert one == two
    assert links(one, "a")[1] == ["b", "c"]
    assert links(one, "b")[1] == []


@pytest.mark.parametrize("kind", ["shapes", "numpy", "traced"])
def test_only_shapes_are_read(kind: str) -> None:
    params = oracle.dense_tree(np.random.default_rng(0), [5, 7, 4])
    wanted = chain(params, ["Dense_0", "Dense_1"])
    found: list[Any] = []
    match kind:
        case "shapes":
            found.append(chain(jax.eval_shape(lambda: params), ["Dense_0", "Dense_1"]))
        case "numpy":
            found.append(chain(params, ["Dense_0", "Dense_1"]))
        case "traced":
            jax.jit(lambda p: found.append(chain(p, ["Dense_0", "Dense_1"])))(params)
    assert found == [wanted]


def test_strides_and_pools_are_kept_and_change_no_score() -> None:
    params = tree(a=(3, 3, 2, 4), b=(3, 3, 4, 6), c=(24, 3))
    plain = chain(params, ["a", "b", "c"])
    rich = chain(params, [LayerSpec("a", strides=2), LayerSpec("b", pool=2), "c"])
    assert [(layer.strides, layer.pool) for layer in rich.layers] == [(2, 1), (1, 2), (1, 1)]
    one, two = (lookahead_masks(params, graph, 0.6) for graph in (plain, rich))
    chex.assert_trees_all_equal(one, two)


def test_layers_may_be_declared_in_another_tree_order() -> None:
    """The order of the chain counts, not the order of the tree."""
    params = tree(z=(3, 4), a=(4, 2))
    graph = chain(params, ["z", "a"])
    assert graph.names == ("z", "a")
    assert links(graph, "a") == (["z"], [])

"""What a declared chain refuses, and how a graph and its factors meet other parameters."""

from dataclasses import replace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lap_jax import (
    LayerSpec,
    Norm,
    chain,
    measure,
    prune_in_training,
)
from lap_jax.graph.chain import as_graph, check_fits, norm_tensors
from lap_jax.graph.layers import Factor, Junction
from tests import oracle
from tests.networks import norms_of, refused, tree

# ---------------------------------------------------------------- what is refused

NAMES = ["Dense_0", "Dense_1", "Dense_2"]


def net() -> oracle.Tree:
    return oracle.dense_tree(np.random.default_rng(0), [5, 7, 6, 4])


def test_empty_chain() -> None:
    with refused("chain", "empty"):
        chain(net(), [])


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("Dense_3", "Dense_2"), ("dense_1", "Dense_1"), ("Dense_1/kernels", "Dense_1/kernel")],
)
def test_unknown_path_with_the_nearest_names(wrong: str, nearest: str) -> None:
    with refused(repr(wrong), nearest):
        chain(net(), ["Dense_0", wrong])


def test_unknown_path_deep_in_the_tree() -> None:
    with refused("'Dense_0'", "nearest: 'net/Dense_0'"):
        chain({"params": {"net": net()}}, ["Dense_0"])


def test_unknown_norm() -> None:
    norms, stats = norms_of(7)
    with refused("'BatchNorm_1'", "BatchNorm_0"):
        chain(net() | norms, ["Dense_0", "BatchNorm_1", "Dense_1"], stats)


def test_unknown_neighbours() -> None:
    with refused("'Dense_2'", "Dense_7"):
        chain(net(), ["Dense_0", "Dense_1", LayerSpec("Dense_2", previous="Dense_7")])
    with refused("'Dense_0'", "Dense_8"):
        chain(net(), [LayerSpec("Dense_0", next=("Dense_1", "Dense_8")), "Dense_1", "Dense_2"])


@pytest.mark.parametrize("again", ["Dense_0", "Dense_0/kernel"])
def test_layer_named_twice(again: str) -> None:
    with refused("'Dense_0'", "twice"):
        chain(net(), ["Dense_0", again])


def test_dense_shapes_that_do_not_connect() -> None:
    with refused("'Dense_2'", "(6, 4)", "'Dense_0'", "(5, 7)"):
        chain(net(), ["Dense_0", "Dense_2"])


def test_conv_shapes_that_do_not_connect() -> None:
    params = {
        "a": {"kernel": np.ones((3, 3, 2, 4), np.float32)},
        "b": {"kernel": np.ones((3, 3, 3, 5), np.float32)},
        "c": {"kernel": np.ones((18, 5), np.float32)},
    }
    with refused("'b'", "(3, 3, 3, 5)", "'a'", "(3, 3, 2, 4)"):
        chain(params, ["a", "b"])
    with refused("'c'", "(18, 5)", "'a'", "(3, 3, 2, 4)"):
        chain(params, ["a", "c"])


def test_groups_that_do_not_fit() -> None:
    params = {
        "a": {"kernel": np.ones((3, 3, 2, 4), np.float32)},
        "b": {"kernel": np.ones((3, 3, 2, 6), np.float32)},
    }
    assert chain(params, ["a", LayerSpec("b", groups=2)]).layers[1].groups == 2
    with refused("'b'", "groups"):
        chain(params, ["a", LayerSpec("b", groups=4)])


def test_several_previous_that_neither_add_nor_join() -> None:
    params = net() | {"Dense_3": {"kernel": np.ones((9, 2), np.float32)}}
    with refused("'Dense_3'", "(9, 2)"):
        chain(params, [*NAMES, LayerSpec("Dense_3", previous=("Dense_1", "Dense_2"))])


def test_norm_of_another_size() -> None:
    norms, stats = norms_of(6)
    with refused("'Dense_0'", "BatchNorm_0", "6", "7"):
        chain(net() | norms, ["Dense_0", "BatchNorm_0", "Dense_1"], stats)


def test_norm_before_any_layer() -> None:
    norms, stats = norms_of(5)
    with refused("BatchNorm_0"):
        chain(net() | norms, ["BatchNorm_0", "Dense_0"], stats)


@pytest.mark.parametrize("dtype", ["int32", "int8", "bool", "complex64", "float8_e4m3fn"])
def test_kernels_must_be_real_floats(dtype: str) -> None:
    params = net()
    params["Dense_1"]["kernel"] = jnp.ones((7, 6), dtype)
    with refused("'Dense_1'", dtype):
        chain(params, NAMES)


def test_a_vector_is_no_kernel() -> None:
    with refused("Dense_1/bias"):
        chain(net(), ["Dense_0", "Dense_1/bias"])


def test_a_kernel_without_weights() -> None:
    params = net()
    params["Dense_0"]["kernel"] = np.ones((0, 7), np.float32)
    with refused("'Dense_0'", "(0, 7)"):
        chain(params, NAMES)


NETWORK = tree(conv=(3, 3, 2, 4), dense=(16, 4), last=(4, 2))
NOT_WHOLE = [0, -1, 1.5, True, "2", (2, 2), float("nan")]


@pytest.mark.parametrize("field", ["strides", "pool", "groups", "flatten"])
@pytest.mark.parametrize("bad", NOT_WHOLE, ids=repr)
def test_numbers_of_a_layer_are_whole_and_positive(field: str, bad: Any) -> None:
    name = "dense" if field == "flatten" else "conv"
    layers: list[Any] = ["conv", "dense", "last"]
    layers[layers.index(name)] = LayerSpec(name, **{field: bad})
    with refused(f"{field} of layer {name!r} is {bad!r}", "whole number of 1 or more"):
        chain(NETWORK, layers)


def test_numbers_of_a_layer_may_be_numpys() -> None:
    two: Any = np.int64(2)
    four: Any = np.int8(4)
    graph = chain(NETWORK, [LayerSpec("conv", strides=two), LayerSpec("dense", flatten=four)])
    assert graph == chain(NETWORK, [LayerSpec("conv", strides=2), "dense"])


def test_a_dense_layer_has_no_groups_and_no_strides() -> None:
    params = tree(a=(3, 4), b=(4, 6))
    for field in ("groups", "strides"):
        with refused("'b'", f"{field}=2", "(4, 6)", "dense", f"leave {field} out"):
            chain(params, ["a", LayerSpec("b", **{field: 2})])  # type: ignore[arg-type]
        assert chain(params, ["a", LayerSpec("b", **{field: 1})]) == chain(params, ["a", "b"])  # type: ignore[arg-type]


def test_a_flatten_comes_before_a_dense_layer() -> None:
    params = tree(a=(3, 3, 2, 4), b=(3, 3, 4, 6))
    with refused("'b'", "flatten=2", "(3, 3, 4, 6)", "convolution", "leave flatten out"):
        chain(params, ["a", LayerSpec("b", flatten=2)])
    assert chain(params, ["a", LayerSpec("b", flatten=1)]) == chain(params, ["a", "b"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), -1e-5, "1e-5", None])
@pytest.mark.parametrize("statistics", [True, False])
def test_epsilons_are_finite_and_not_negative(bad: Any, statistics: bool) -> None:
    norms, stats = norms_of(7)
    norm = Norm("BatchNorm_0", bad, statistics)
    both: list[list[Any]] = [["Dense_0", norm], [LayerSpec("Dense_0", norm=norm)]]
    for declared in both:
        with refused("norm 'BatchNorm_0' after layer 'Dense_0'", f"epsilon {bad!r}", "0 or more"):
            chain(net() | norms, declared, stats)


def test_an_epsilon_may_be_zero() -> None:
    norms, stats = norms_of(7)
    graph = chain(net() | norms, ["Dense_0", Norm("BatchNorm_0", 0)], stats)
    assert graph.layers[0].factors == (
        Factor("BatchNorm_0/scale"), Factor("BatchNorm_0/var", -0.5, 0),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        (5, ("strings, LayerSpec and Norm", "5")),
        (LayerSpec(5), ("kernel", "5")),  # type: ignore[arg-type]
        (LayerSpec("Dense_0", norm=5), ("norm", "5")),  # type: ignore[arg-type]
        (Norm(5), ("norm", "5")),  # type: ignore[arg-type]
        (LayerSpec("Dense_0", next=5), ("'Dense_0'", "next=5")),  # type: ignore[arg-type]
        (LayerSpec("Dense_0", previous=(5,)), ("'Dense_0'", "previous=(5,)")),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_declaration(entry: Any, parts: tuple[str, ...]) -> None:
    with refused(*parts):
        chain(net(), [entry])


# ---------------------------------------------------------------- norms as factors


def test_a_norm_is_the_factors_that_are_there() -> None:
    norms, stats = norms_of(7)
    layers: list[Any] = ["Dense_0", Norm("BatchNorm_0", 1e-3), "Dense_1"]
    scale, variance = Factor("BatchNorm_0/scale"), Factor("BatchNorm_0/var", -0.5, 1e-3)
    assert Norm("BatchNorm_0", 1e-3).factors == (scale, variance)
    # The statistics may come later; a scale that is not there does not come.
    assert chain(net() | norms, layers).layers[0].factors == (scale, variance)
    assert chain(net(), layers, stats).layers[0].factors == (variance,)
    layers = ["Dense_0", Norm("BatchNorm_0", statistics=False), "Dense_1"]
    found = chain(net() | norms, layers)
    assert found.layers[0].factors == (scale,)
    assert [layer.norm for layer in found.layers] == ["BatchNorm_0", ""]


def test_leaves_of_factors_by_path() -> None:
    norms, stats = norms_of(7)
    params = net() | norms
    graph = chain(params, ["Dense_0", "BatchNorm_0", "Dense_1"], stats)
    junction = Junction("sum 0", 6, factors=(Factor("Dense_1/kernel"), Factor("Dense_1/kernel", 2)))
    found = norm_tensors(replace(graph, junctions=(junction,)), params, stats)
    wanted = {
        "Dense_0": {
            "BatchNorm_0/scale": norms["BatchNorm_0"]["scale"],
            "BatchNorm_0/var": stats["BatchNorm_0"]["var"],
        },
        "sum 0": {"Dense_1/kernel": params["Dense_1"]["kernel"]},
    }
    chex.assert_trees_all_equal(found, wanted)
    with refused("'BatchNorm_0' after layer 'Dense_0'", "'BatchNorm_0/var'", "statistics=False"):
        norm_tensors(graph, params, None)
    with refused("'Dense_0'", "multiplied by 'BatchNorm_0/scale'"):
        norm_tensors(graph, net(), stats)
    with refused("'sum 0'", "multiplied by 'Dense_1/kernel'"):
        norm_tensors(replace(graph, layers=(), junctions=(junction,)), {}, stats)


# ---------------------------------------------------------------- a graph of other parameters


def in_a_row(params: Any, x: jax.Array) -> jax.Array:
    for layer in params.values():
        x = x @ layer["kernel"]
    return x


@pytest.mark.parametrize("way", ["as_graph", "shapes", "prune_in_training", "measure"])
def test_a_graph_of_another_model(way: str) -> None:
    graph = chain(net(), NAMES)

    def call(params: oracle.Tree) -> Any:
        match way:
            case "as_graph":
                return as_graph(params, graph, None)
            case "shapes":
                shapes = {f"{name}/kernel": layer["kernel"].shape for name, layer in params.items()}
                return check_fits(graph, shapes)
            case "prune_in_training":
                return prune_in_training(optax.sgd(0.1), graph, [(0, 0.5)]).init(params)
            case "measure":
                return measure(in_a_row, params, jnp.ones((2, 5)), graph=graph)

    call(net())
    with refused("'Dense_0'", "(5, 7)", "(5, 8)", "build the graph from these params"):
        call(oracle.dense_tree(np.random.default_rng(0), [5, 8, 6, 4]))
    with refused("'Dense_2/kernel'"):
        call(oracle.dense_tree(np.random.default_rng(0), [5, 7, 6]))


def test_a_graph_does_not_change_what_a_kernel_must_be() -> None:
    params = net()
    graph = chain(params, NAMES)
    params["Dense_1"]["kernel"] = params["Dense_1"]["kernel"].astype(np.int32)
    with refused("'Dense_1'", "int32"):
        as_graph(params, graph, None)

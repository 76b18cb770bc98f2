"""The levels of Appendix C give every column head of Tables 1 to 6, to the last digit printed."""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lap_jax import (
    Graph,
    PruningError,
    chain,
    cubic_schedule,
    iterative_schedule,
    lookahead_masks,
    paper_sparsity,
    summarize,
)
from lap_jax.selection.sparsity import kept_count, sparsity_per_layer
from tests import oracle
from tests.networks import mlp, refused


def shapes_only(convs: Sequence[int], dense: Sequence[int], inputs: int = 3) -> Any:
    """3x3 convolutions and dense layers as shapes without values, and their names in order."""
    tree: dict[str, Any] = {}
    for i, (a, b) in enumerate(itertools.pairwise([inputs, *convs])):
        tree[f"Conv_{i}"] = {"kernel": jax.ShapeDtypeStruct((3, 3, a, b), jnp.float32)}
    for i, (a, b) in enumerate(itertools.pairwise(dense)):
        tree[f"Dense_{i}"] = {"kernel": jax.ShapeDtypeStruct((a, b), jnp.float32)}
    return tree


VGG = {
    "VGG-11": [64, 128, *[256] * 2, *[512] * 4],
    "VGG-16": [64, 64, 128, 128, *[256] * 3, *[512] * 6],
    "VGG-19": [64, 64, 128, 128, *[256] * 4, *[512] * 8],
}
MODELS: dict[str, Any] = {
    "FCN": shapes_only([], [784, 500, 500, 500, 500, 10]),
    "Conv-6": shapes_only([64, 64, 128, 128, 256, 256], [4096, 256, 256, 10]),
    **{name: shapes_only(convs, [512, 10]) for name, convs in VGG.items()},
    # The convolutions of the main path, one after the other: no 1x1 shortcuts.
    "ResNet-18": shapes_only([64] * 5 + [128] * 4 + [256] * 4 + [512] * 4, [512, 10]),
}
# Table: model, first tau, step of tau, column heads in percent.
TABLES: dict[str, tuple[str, int, int, list[float]]] = {
    "Table 1": ("FCN", 4, 1, [6.36, 3.21, 1.63, 0.84, 0.43, 0.23, 0.12]),
    "Table 2": ("Conv-6", 12, 1, [10.62, 8.86, 7.39, 6.18, 5.17, 4.32, 3.62]),
    "Table 3": ("VGG-11", 11, 2, [16.74, 12.10, 8.74, 6.32, 4.56, 3.30, 2.38, 1.72]),
    "Table 4": ("VGG-16", 14, 2, [10.28, 7.43, 5.37, 3.88, 2.80, 2.03, 1.46, 1.06]),
    "Table 5": ("VGG-19", 13, 2, [12.09, 8.74, 6.31, 4.56, 3.30, 2.38, 1.72, 1.24]),
    "Table 6": ("ResNet-18", 14, 3, [10.30, 6.33, 3.89, 2.40, 1.48, 0.92, 0.57, 0.36]),
}


def kept_percent(graph: Graph, levels: dict[str, float]) -> float:
    kept = sum(round((1 - levels[layer.name]) * layer.size) for layer in graph.layers)
    return 100 * kept / sum(layer.size for layer in graph.layers)


@pytest.mark.parametrize("table", TABLES)
def test_column_heads_of_the_papers_tables(table: str) -> None:
    model, tau, step, heads = TABLES[table]
    graph = chain(MODELS[model], list(MODELS[model]))
    p, q = (0.85, 0.5) if model == "FCN" else (0.85, 0.8)
    unpruned = ["Conv_0"] if model == "ResNet-18" else []
    for i, head in enumerate(heads):
        levels = paper_sparsity(graph, tau + i * step, p=p, q=q, unpruned=unpruned)
        assert list(levels) == list(graph.names)
        assert kept_percent(graph, levels) == pytest.approx(head, abs=0.00501)


def test_the_papers_own_setting_for_the_fcn() -> None:
    """Appendix C: (p, q) = (0, 0.5); there is no convolution for p to act on."""
    graph = chain(MODELS["FCN"], list(MODELS["FCN"]))
    assert paper_sparsity(graph, 5, p=0, q=0.5) == paper_sparsity(graph, 5, q=0.5)


def test_defaults_are_those_of_the_convolutional_networks() -> None:
    graph = chain(MODELS["Conv-6"], list(MODELS["Conv-6"]))
    levels = paper_sparsity(graph, 12)
    for name, level in levels.items():
        kept = 0.85 if name.startswith("Conv") else 0.8
        kept = 0.9 if name == "Dense_2" else kept
        assert level == pytest.approx(1 - kept**12)


def test_nothing_is_removed_at_tau_zero() -> None:
    graph = chain(MODELS["Conv-6"], list(MODELS["Conv-6"]))
    assert set(paper_sparsity(graph, 0).values()) == {0.0}


def test_unpruned_layers_stay_whole_and_patterns_name_them() -> None:
    graph = chain(MODELS["VGG-11"], list(MODELS["VGG-11"]))
    levels = paper_sparsity(graph, 11, unpruned=["Conv_0", "Dense_*"])
    assert [name for name, level in levels.items() if level == 0.0] == ["Conv_0", "Dense_0"]
    plain = paper_sparsity(graph, 11)
    assert all(levels[f"Conv_{i}"] == plain[f"Conv_{i}"] for i in range(1, 8))


def test_a_lone_dense_layer_is_the_last() -> None:
    graph = chain(shapes_only([], [5, 3]), ["Dense_0"])
    assert paper_sparsity(graph, 2, q=0.5) == {"Dense_0": pytest.approx(1 - 0.75**2)}


def test_levels_go_straight_into_lookahead_masks() -> None:
    params = oracle.dense_tree(np.random.default_rng(0), [20, 30, 30, 10])
    graph = chain(params, list(params))
    masks = lookahead_masks(params, graph, paper_sparsity(graph, 2, q=0.5))
    kept = [row.kept for row in summarize(masks, graph).rows]
    assert kept == [150, 225, round(0.75**2 * 300)]


# ---------------------------------------------------------------- the user's own levels


def kept_fractions(levels: Any) -> list[float]:
    tree = MODELS["Conv-6"]
    rng = np.random.default_rng(0)
    small = {
        name: {"kernel": rng.normal(size=shape).astype(np.float32)}
        for name, shape in {
            "Conv_0": (1, 1, 2, 10),
            "Conv_1": (1, 1, 10, 10),
            "Dense_0": (10, 10),
            "Dense_1": (10, 10),
        }.items()
    }
    assert set(small) < set(tree)
    masks = lookahead_masks(small, list(small), levels)
    return [float(np.mean(masks[name]["kernel"])) for name in small]


@pytest.mark.parametrize(
    ("levels", "kept"),
    [
        (0.5, [0.5, 0.5, 0.5, 0.5]),
        (0, [1.0, 1.0, 1.0, 1.0]),
        (np.float32(0.5), [0.5, 0.5, 0.5, 0.5]),
        ((0.1, 0.2, 0.3, 0.4), [0.9, 0.8, 0.7, 0.6]),
        ({"Conv_*": 0.9, "Dense_*": 0.5}, [0.1, 0.1, 0.5, 0.5]),
        ({"*": 0.5, "Conv_0": 0.0}, [1.0, 0.5, 0.5, 0.5]),
        ({"Conv_0": 0.0, "*_1": 0.2, "*": 0.4}, [1.0, 0.8, 0.6, 0.8]),
        ({"Conv_?": 0.3, "Dense_[01]": 0.6}, [0.7, 0.7, 0.4, 0.4]),
    ],
)
def test_levels_by_number_place_name_or_pattern(levels: Any, kept: list[float]) -> None:
    chex.assert_trees_all_close(kept_fractions(levels), kept)


NAMES = list(mlp())


@pytest.mark.parametrize("bad", [-0.1, 1.0, 1.5, 90, float("nan"), float("inf")])
@pytest.mark.parametrize("call", [sparsity_per_layer, partial(lookahead_masks, mlp())])
def test_sparsity_outside_of_its_range(call: Any, bad: float) -> None:
    levels: list[Any] = [bad, [0.5, bad, 0.5], {"Dense_1": bad, "*": 0.5}]
    for sparsity in levels:
        where = "'Dense_0'" if sparsity is bad else "'Dense_1'"
        with refused(f"sparsity of layer {where}", f"{bad:g}", "[0, 1)"):
            call(sparsity, NAMES) if call is sparsity_per_layer else call(NAMES, sparsity)


@pytest.mark.parametrize("bad", ["0.5", None, True, 0.5j, [[0.5, 0.5, 0.5]]])
def test_sparsity_that_is_no_number(bad: Any) -> None:
    with refused("sparsity"):
        sparsity_per_layer(bad, NAMES)


def test_sparsity_that_is_traced() -> None:
    with refused("sparsity of layer 'Dense_0' is traced", "static"):
        jax.jit(lambda sparsity: sparsity_per_layer(sparsity, NAMES))(0.5)


@pytest.mark.parametrize(
    ("levels", "parts"),
    [
        ({"Dense_3": 0.5, "*": 0.5}, ("'Dense_3'", "Dense_2")),
        ({"Conv_*": 0.5, "*": 0.5}, ("no layer 'Conv_*'", "'Dense_0'")),
        ({"Dense_[01]": 0.5}, ("'Dense_2'", "no sparsity")),
        ([0.5, 0.5], ("2 values for 3 layers",)),
        ([0.5] * 4, ("4 values for 3 layers",)),
        ([], ("0 values for 3 layers",)),
    ],
)
def test_as_many_sparsities_as_layers(levels: Any, parts: tuple[str, ...]) -> None:
    with refused(*parts):
        sparsity_per_layer(levels, NAMES)


@given(st.integers(1, 10**9), st.floats(0, 1, exclude_max=True))
def test_what_stays_is_the_nearest_whole_number(size: int, sparsity: float) -> None:
    found = kept_count(size, sparsity)
    assert type(found) is int
    assert abs(found - (1 - sparsity) * size) <= 0.5


def test_bad_levels_name_what_is_wrong() -> None:
    graph = chain(MODELS["FCN"], list(MODELS["FCN"]))
    with pytest.raises(PruningError, match=r"tau.*-2"):
        paper_sparsity(graph, -2)
    with pytest.raises(PruningError, match=r"q.*1\.5"):
        paper_sparsity(graph, 2, q=1.5)
    with pytest.raises(PruningError, match="Conv_0"):
        paper_sparsity(graph, 2, unpruned=["Conv_0"])


@pytest.mark.parametrize("bad", [1.5, 2.0, "3", None, True])
@pytest.mark.parametrize("name", ["begin", "end", "every", "rounds"])
def test_numbers_of_steps_are_whole(name: str, bad: Any) -> None:
    wanted = f"{name} is {bad!r}: expected a whole number"
    if name != "rounds":
        with pytest.raises(PruningError, match=wanted):
            cubic_schedule(0.8, **{"begin": 0, "end": 10, "every": 4, name: bad})
    if name != "end":
        with pytest.raises(PruningError, match=wanted):
            iterative_schedule(0.8, **{"rounds": 2, "every": 4, "begin": 0, name: bad})


@pytest.mark.parametrize("power", [1, 2.5, 3, 7])
def test_the_power_of_the_schedule_is_that_of_its_formula(power: float) -> None:
    found: Any = cubic_schedule({"a": 0.8, "b": 0.5}, 10, 110, 25, initial=0.2, power=power)
    for step, levels in found:
        left = (1 - (step - 10) / 100) ** power
        assert levels == {
            name: pytest.approx(goal + (0.2 - goal) * left)
            for name, goal in (("a", 0.8), ("b", 0.5))
        }
    assert found[-1][1] == {"a": 0.8, "b": 0.5}
    if power == 1:  # evenly
        steps = [levels["a"] for _, levels in cubic_schedule({"a": 0.8}, 0, 4, 1, power=1)]  # type: ignore[index,call-overload]
        assert steps == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize("power", [0, -1, float("nan"), float("inf")])
def test_a_power_that_bends_nothing_is_refused(power: float) -> None:
    with pytest.raises(PruningError, match="power is"):
        cubic_schedule(0.8, 0, 10, 2, power=power)


def test_numbers_of_steps_may_be_numpys() -> None:
    zero: Any = np.int32(0)
    four: Any = np.uint8(4)
    ten: Any = np.int64(10)
    assert cubic_schedule(0.8, zero, ten, four) == cubic_schedule(0.8, 0, 10, 4)
    assert iterative_schedule(0.8, four, ten, zero) == iterative_schedule(0.8, 4, 10, 0)

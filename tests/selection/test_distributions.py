"""Sparsities of layers by the rules of the papers, against closed forms and their definitions."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

import lap_jax
from lap_jax import PruningError, chain, erk_sparsity, ideal_gas_sparsity, sparsity_keeping
from tests.networks import tree

WIDTHS = (20, 300, 100, 10)


def dense(*widths: int) -> Any:
    shapes = {f"Dense_{i}": each for i, each in enumerate(itertools.pairwise(widths))}
    params = tree(**shapes)
    return chain(params, list(params))


def kept(graph: Any, levels: dict[str, float]) -> float:
    return sum((1 - levels[layer.name]) * layer.size for layer in graph.prunable)


CONV: Any = {"conv": (3, 3, 8, 16), "wide": (3, 3, 16, 64), "head": (64, 10)}


def convolutional() -> Any:
    params = tree(**CONV)
    return chain(params, list(params))


@pytest.mark.parametrize("rule", [erk_sparsity, ideal_gas_sparsity])
@pytest.mark.parametrize("sparsity", [0.0, 0.01, 0.3, 0.9, 0.99, 0.9999])
def test_the_network_has_the_sparsity_that_was_asked_for(rule: Any, sparsity: float) -> None:
    for graph in (dense(*WIDTHS), convolutional()):
        levels = rule(graph, sparsity)
        size = sum(layer.size for layer in graph.layers)
        assert kept(graph, levels) == pytest.approx((1 - sparsity) * size, rel=1e-9)
        assert all(0 <= level < 1 for level in levels.values())


def test_erk_is_its_closed_form_where_no_layer_is_full() -> None:
    """One e for all: it is the weights that stay over the sum of axes of all kernels."""
    graph = convolutional()
    levels = erk_sparsity(graph, 0.95)
    axes = {name: sum(shape) for name, shape in CONV.items()}
    size = {name: math.prod(shape) for name, shape in CONV.items()}
    e = 0.05 * sum(size.values()) / sum(axes.values())
    for name in CONV:
        assert levels[name] == pytest.approx(1 - e * axes[name] / size[name], abs=1e-12)


def test_erk_fills_small_layers_and_gives_the_rest_to_the_others() -> None:
    graph = dense(*WIDTHS)  # 6,000 and 30,000 and 1,000 weights
    levels = erk_sparsity(graph, 0.5)
    assert levels["Dense_2"] == levels["Dense_0"] == 0.0
    assert levels["Dense_1"] == pytest.approx(1 - (18_500 - 7_000) / 30_000)
    # By steps: fill whatever asks for more than it has, and share what is left.
    rates = {layer.name: sum(layer.shape) / layer.size for layer in graph.layers}
    sizes = {layer.name: layer.size for layer in graph.layers}
    full: set[str] = set()
    while True:
        left = {name for name in sizes if name not in full}
        budget = 0.7 * sum(sizes.values()) - sum(sizes[name] for name in full)
        e = budget / sum(rates[name] * sizes[name] for name in left)
        more = {name for name in left if e * rates[name] > 1}
        if not more:
            break
        full |= more
    found = erk_sparsity(graph, 0.3)
    for name in sizes:
        wanted = 0.0 if name in full else 1 - e * rates[name]
        assert found[name] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("sparsity", [0.2, 0.9, 0.999])
def test_one_force_presses_on_all_cylinders(sparsity: float) -> None:
    """Of ``kept = 1 / (1 + F n)`` the force is the same whatever layer tells it."""
    graph = convolutional()
    levels = ideal_gas_sparsity(graph, sparsity)
    forces = [level / (1 - level) / graph[name].size for name, level in levels.items()]
    np.testing.assert_allclose(forces, forces[0], rtol=1e-9)
    assert forces[0] > 0


def test_quotas_of_equal_layers_are_uniform_and_under_much_force_counts_are_equal() -> None:
    levels = ideal_gas_sparsity(dense(8, 8, 8), 0.7)
    assert list(levels.values()) == pytest.approx([0.7, 0.7])
    graph = dense(*WIDTHS)
    levels = ideal_gas_sparsity(graph, 0.9999)
    counts = [(1 - levels[layer.name]) * layer.size for layer in graph.layers]
    assert max(counts) < 1.01 * min(counts)


@pytest.mark.parametrize("rule", [erk_sparsity, ideal_gas_sparsity])
def test_they_make_masks_and_schedules_and_leave_pinned_layers_out(rule: Any) -> None:
    params = tree(a=(20, 30), b=(30, 40), c=(40, 5))
    graph = chain(params, list(params)).pin("b")
    levels = rule(graph, 0.8)
    assert set(levels) == {"a", "c"}
    masks = lap_jax.lookahead_masks(params, graph, levels, method="MP")
    rows = {row.layer: row for row in lap_jax.summarize(masks, graph).rows}
    assert rows["b"].kept == 1200
    assert rows["a"].kept + rows["c"].kept == pytest.approx(0.2 * 800, abs=1)
    assert lap_jax.cubic_schedule(levels, 0, 4, 2)[-1] == (4, levels)


@pytest.mark.parametrize("bad", [-0.1, 1.0, float("nan")])
def test_a_sparsity_that_is_none_is_refused(bad: float) -> None:
    for rule in (erk_sparsity, ideal_gas_sparsity):
        with pytest.raises(PruningError, match=r"expected the fraction removed, in \[0, 1\)"):
            rule(dense(4, 5, 6), bad)


@pytest.mark.parametrize("count", [1, 7, 331, 1199, 1200])
def test_counts_are_kept_to_the_weight(count: int) -> None:
    params = tree(a=(20, 60), b=(60, 60), c=(60, 7))
    graph = chain(params, list(params))
    levels: Any = sparsity_keeping(graph, {"a": count, "b": 2 * count, "*": 40})
    masks = lap_jax.lookahead_masks(params, graph, levels, method="MP")
    assert [row.kept for row in lap_jax.summarize(masks).rows] == [count, 2 * count, 40]
    level: Any = sparsity_keeping(graph, count)
    masks = lap_jax.lookahead_masks(params, graph, level, method="MP", scope="global")
    assert lap_jax.summarize(masks).total.kept == count


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (0, "the network is to keep 0 weights: expected 1 to all 50"),
        (51, "the network is to keep 51 weights"),
        ({"*": 21}, "layer 'Dense_0' is to keep 21 weights: expected 1 to all 20"),
        ({"Dense_0": 3}, "layer 'Dense_1' is given no sparsity"),
        ({"nobody": 3, "*": 1}, "nobody"),
        ({"*": 2.5}, r"the count of '\*' is 2.5: expected a whole number"),
    ],
)
def test_counts_that_are_none_are_refused(counts: Any, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        sparsity_keeping(dense(4, 5, 6), counts)

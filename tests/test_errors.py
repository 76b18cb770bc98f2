"""Every bad input gets one exception, which names the layer, what was found, and the mend."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lap_jax import (
    Method,
    PruningError,
    chain,
    lookahead_masks,
    lookahead_scores,
    paper_sparsity,
)
from tests import oracle

NAMES = ["Dense_0", "Dense_1", "Dense_2"]


def net() -> oracle.Tree:
    return oracle.dense_tree(np.random.default_rng(0), [5, 7, 6, 4])


def raises(*parts: str) -> Any:
    """A PruningError whose message holds all the parts, in any order."""
    return pytest.raises(PruningError, match="".join(f"(?=.*{re.escape(p)})" for p in parts))


def test_it_is_a_value_error() -> None:
    assert issubclass(PruningError, ValueError)


# ---------------------------------------------------------------- sparsity


@pytest.mark.parametrize("bad", [-0.1, 1.0, 1.5, 90, float("nan"), float("inf")])
def test_sparsity_outside_of_its_range(bad: float) -> None:
    with raises("sparsity", f"{bad:g}", "[0, 1)"):
        lookahead_masks(net(), NAMES, bad)
    with raises("'Dense_1'", f"{bad:g}", "[0, 1)"):
        lookahead_masks(net(), NAMES, [0.5, bad, 0.5])
    with raises("'Dense_1'", f"{bad:g}", "[0, 1)"):
        lookahead_masks(net(), NAMES, {"Dense_1": bad, "*": 0.5})


@pytest.mark.parametrize("bad", ["0.5", None, True, 0.5j, [[0.5, 0.5, 0.5]]])
def test_sparsity_that_is_no_number(bad: Any) -> None:
    with raises("sparsity"):
        lookahead_masks(net(), NAMES, bad)


def test_sparsity_for_a_layer_that_is_not_there() -> None:
    with raises("'Dense_3'", "Dense_2"):
        lookahead_masks(net(), NAMES, {"Dense_3": 0.5, "*": 0.5})
    with raises("'Conv_*'"):
        lookahead_masks(net(), NAMES, {"Conv_*": 0.5, "*": 0.5})


def test_layer_that_no_sparsity_covers() -> None:
    with raises("'Dense_2'", "sparsity"):
        lookahead_masks(net(), NAMES, {"Dense_[01]": 0.5})


@pytest.mark.parametrize("levels", [[0.5, 0.5], [0.5] * 4, []])
def test_as_many_sparsities_as_layers(levels: list[float]) -> None:
    with raises("sparsity", str(len(levels)), "3"):
        lookahead_masks(net(), NAMES, levels)


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", ["MP", "LAP", "LAP-backward-seq"])
def test_weights_that_are_not_finite_with_layer_and_count(bad: float, method: str) -> None:
    params = net()
    params["Dense_1"]["kernel"].flat[[1, 5, 20]] = bad
    with raises("'Dense_1'", "3"):
        lookahead_masks(params, NAMES, 0.5, method=method)
    with raises("'Dense_1'", "3"):
        lookahead_scores(params, NAMES, method="LAP")


def test_jitted_functions_see_bad_weights_too_when_called_on_values() -> None:
    params = net()
    params["Dense_1"]["kernel"].flat[0] = np.nan
    params["Dense_2"]["kernel"].flat[[0, 1]] = np.nan
    with raises("'Dense_1'", "1"):
        lookahead_masks(jax.tree.map(jnp.asarray, params), NAMES, 0.5)


@pytest.mark.parametrize("leaf", ["scale", "var"])
def test_norms_that_are_not_finite(leaf: str) -> None:
    norms, stats = oracle.norm_trees(np.random.default_rng(0), [7])
    (norms if leaf == "scale" else stats)["BatchNorm_0"][leaf][2] = np.nan
    with raises("BatchNorm_0", "1"):
        lookahead_masks(
            net() | norms, ["Dense_0", "BatchNorm_0", "Dense_1"], 0.5, batch_stats=stats
        )


# ---------------------------------------------------------------- method, key, statistics


def test_statistics_that_a_jitted_function_closes_over() -> None:
    params = {"a": {"kernel": jnp.ones((3, 4))}, "n": {"scale": jnp.ones(4)}}
    stats = {"n": {"var": jnp.ones(4)}}
    masks = jax.jit(lambda params: lookahead_masks(params, ["a", "n"], 0.5, batch_stats=stats))
    assert int(masks(params)["a"]["kernel"].sum()) == 6
    stats["n"]["var"] = jnp.array([1.0, np.nan, 1.0, 1.0])
    bad = jax.jit(lambda params: lookahead_masks(params, ["a", "n"], 0.5, batch_stats=stats))
    with pytest.raises(PruningError, match="n/var after layer 'a' has 1 NaN"):
        bad(params)


def test_unknown_method_with_the_known_ones() -> None:
    with raises("'LAPP'", "'LAP'"):
        lookahead_masks(net(), NAMES, 0.5, method="LAPP")
    with raises("'lap'", "'LAP'"):
        lookahead_scores(net(), NAMES, method="lap")


@pytest.mark.parametrize(
    ("method", "found"),
    [
        (Method("l2"), "l2"),  # type: ignore[arg-type]
        (Method("lookahead", "up"), "up"),  # type: ignore[arg-type]
        (Method("lookahead", "both", "sideways"), "sideways"),  # type: ignore[arg-type]
        (Method("lookahead", "both", None, 0), "0"),
    ],
)
def test_method_of_unknown_parts(method: Method, found: str) -> None:
    with raises(found):
        lookahead_masks(net(), NAMES, 0.5, method=method)


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_steps_are_a_positive_whole_number(steps: Any) -> None:
    with raises("steps", str(steps)):
        lookahead_masks(net(), NAMES, 0.5, method="LAP-forward-seq", steps=steps)


@pytest.mark.parametrize("call", [lookahead_masks, lookahead_scores])
def test_random_pruning_without_a_key(call: Any) -> None:
    arguments = (0.5,) if call is lookahead_masks else ()
    with raises("random", "key=jax.random.key"):
        call(net(), NAMES, *arguments, method="RP")


@pytest.mark.parametrize("call", [lookahead_masks, lookahead_scores])
def test_batch_norm_without_statistics(call: Any) -> None:
    norms, stats = oracle.norm_trees(np.random.default_rng(0), [7])
    declared = ["Dense_0", "BatchNorm_0", "Dense_1"]
    arguments = (0.5,) if call is lookahead_masks else ()
    with raises("BatchNorm_0", "Dense_0", "batch_stats"):
        call(net() | norms, declared, *arguments)
    with raises("BatchNorm_0", "Dense_0", "batch_stats"):
        call(net() | norms, declared, *arguments, batch_stats={"BatchNorm_7": stats["BatchNorm_0"]})


def test_levels_of_the_paper_with_bad_numbers() -> None:
    graph = chain(net(), NAMES)
    with raises("tau", "-1"):
        paper_sparsity(graph, -1)
    with raises("q", "1.2"):
        paper_sparsity(graph, 3, q=1.2)
    with raises("'Conv_0'"):
        paper_sparsity(graph, 3, unpruned=["Conv_0"])

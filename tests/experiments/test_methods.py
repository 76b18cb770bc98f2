"""Scores of others, and methods by name."""

from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lap_jax
from experiments.methods import (
    METHODS,
    dass_activations,
    measured_by,
    method_named,
    ria,
    tensors_of,
)


def mlp(params: dict[str, dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(x @ params["up"]["kernel"])
    return jax.nn.relu(hidden @ params["down"]["kernel"]) @ params["head"]["kernel"]


@pytest.fixture
def params() -> dict[str, dict[str, jax.Array]]:
    shapes = {"up": (3, 8), "down": (8, 4), "head": (4, 2)}
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return {
        name: {"kernel": jax.random.normal(key, shape)}
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def test_ria_is_shares_of_rows_and_columns_times_the_root_of_the_input() -> None:
    rng = np.random.default_rng(0)
    kernel, norm = rng.normal(size=(5, 3)), rng.uniform(size=(5, 1))
    wanted = np.zeros_like(kernel)
    for j in range(5):
        for k in range(3):
            size = abs(kernel[j, k])
            share = size / abs(kernel[j]).sum() + size / abs(kernel[:, k]).sum()
            wanted[j, k] = share * norm[j, 0] ** 0.5
    assert np.allclose(ria(jnp.asarray(kernel), jnp.asarray(norm)), wanted)


def test_ria_of_a_dead_row_is_zero_and_not_nan() -> None:
    kernel = jnp.array([[0.0, 0.0], [1.0, 2.0]])
    scores = ria(kernel, jnp.ones((2, 1)))
    assert scores[0].tolist() == [0, 0]
    assert bool((scores[1] > 0).all())


def test_dass_looks_forward_where_the_stream_widens_and_is_wandas_elsewhere(params) -> None:  # type: ignore[no-untyped-def]
    x = jax.random.normal(jax.random.key(1), (50, 3))
    graph = lap_jax.trace(mlp, params, x)
    measured = lap_jax.measure(mlp, params, x, graph=graph)
    given = tensors_of("DaSS", params, graph, measured)
    assert given is not None
    hidden = np.maximum(np.asarray(x) @ np.asarray(params["up"]["kernel"]), 0)
    rms = np.sqrt((hidden**2).mean(0))
    activations = given["activations"]
    assert np.allclose(
        activations["up"]["kernel"], np.broadcast_to(np.sqrt(rms), (3, 8)), rtol=1e-5
    )
    assert np.allclose(
        activations["down"]["kernel"], np.broadcast_to(rms[:, None], (8, 4)), rtol=1e-5
    )
    masks = lap_jax.lookahead_masks(params, graph, 0.5, method=METHODS["DaSS"], tensors=given)
    score = np.abs(params["up"]["kernel"]) * np.sqrt(rms)
    assert np.array_equal(masks["up"]["kernel"], score >= np.sort(score.ravel())[12])


def test_what_was_not_measured_counts_as_one(params) -> None:  # type: ignore[no-untyped-def]
    graph = lap_jax.trace(mlp, params, jnp.ones((1, 3)))
    found = dass_activations(params, graph, {})
    assert all(bool((leaf == 1).all()) for leaf in jax.tree.leaves(found))


def test_only_the_methods_of_others_must_be_measured() -> None:
    assert {name for name in METHODS if measured_by(name)} == {"Wanda", "RIA", "DaSS"}
    assert tensors_of("LAP", {}, None, None) is None  # type: ignore[arg-type]


def test_a_score_is_named_by_its_module() -> None:
    assert method_named("experiments.methods:ria") == lap_jax.Method(ria)
    for name, told in (
        ("LAPP", "unknown method"), ("no_such_module:f", "cannot be imported"),
        ("experiments.methods:absent", "cannot be imported"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            method_named(name)


def test_lap_once_fills_up_what_is_wasted_by_the_scores_of_the_whole_network() -> None:
    sizes = (10, 24, 24, 6)
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        name: {"kernel": jax.random.normal(key, tuple(shape))}
        for name, key, *shape in zip(
            ("up", "down", "head"), keys, sizes[:-1], sizes[1:], strict=True
        )
    }
    graph = lap_jax.chain(params, list(params))
    given = tensors_of("LAP-once", params, graph, None)
    once, lap = METHODS["LAP-once"], METHODS["LAP"]
    own, plain = (
        lap_jax.lookahead_masks(params, graph, 0.9, method=method, tensors=tensors)
        for method, tensors in ((once, given), (lap, None))
    )
    chex.assert_trees_all_equal(own, plain)
    full = lap_jax.lookahead_masks(params, graph, 0.9, method=once, tensors=given, effective=True)
    scores = [np.asarray(each) for each in lap_jax.lookahead_scores(params, graph).values()]
    wanted, rounds = filled_up(scores, [round(0.1 * each.size) for each in scores])
    assert rounds > 1  # something was wasted
    for mask, name in zip(wanted, params, strict=True):
        assert np.array_equal(mask, full[name]["kernel"])


def filled_up(scores: list[np.ndarray], kept: list[int]) -> tuple[list[np.ndarray], int]:
    """Keep the largest of what touches no neuron that is dead on a side, until nothing is dead."""
    open_ = [np.ones(each.shape, bool) for each in scores]
    for rounds in range(1, 20):
        masks = []
        for each, where, count in zip(scores, open_, kept, strict=True):
            least = np.sort(each[where])[-count]
            masks.append(where & (each >= least))
        reached = [np.ones(len(masks[0]), bool)]
        for mask in masks:
            reached.append((mask & reached[-1][:, None]).any(0))
        read = [np.ones(masks[-1].shape[1], bool)]
        for mask in masks[::-1]:
            read.append((mask & read[-1]).any(1))
        live = [a & b for a, b in zip(reached, read[::-1], strict=True)]
        if not any(
            (mask & ~np.outer(*ends)).any()
            for mask, ends in zip(masks, pairwise(live), strict=True)
        ):
            return masks, rounds
        open_ = [where & np.outer(*ends) for where, ends in zip(open_, pairwise(live), strict=True)]
        assert all(where.sum() >= count for where, count in zip(open_, kept, strict=True))
    raise AssertionError("it does not end")

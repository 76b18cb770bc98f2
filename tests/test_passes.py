"""Passes: in which order layers are pruned, and what of their neighbours they see."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lap_jax import Method, chain, lookahead_masks
from tests.networks import Array, assert_masks, kernels, mlp

PARAMS = mlp(5)
NAMES = list(PARAMS)


def best(scores: Array, kept: int) -> Array:
    """The mask of the largest, by sorting."""
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores, axis=None, kind="stable")[:kept]] = True
    return mask.reshape(scores.shape)


def by_hand(order: str | None, levels: list[float], start: list[Array] | None = None) -> Any:
    """Algorithm 1 in float64: a layer at a time, each on its neighbours as they are then."""
    weights = [kernel.astype(np.float64) for kernel in kernels(PARAMS, NAMES)]
    masks = [np.ones(weight.shape, bool) for weight in weights] if start is None else list(start)
    for level in levels:
        seen = list(masks)
        places = range(len(weights))
        for i in reversed(places) if order == "backward" else places:
            left = seen if order is None else masks
            before = (
                np.ones(len(weights[i]))
                if i == 0
                else np.linalg.norm(weights[i - 1] * left[i - 1], axis=0)
            )
            after = (
                np.ones(weights[i].shape[1])
                if i == len(weights) - 1
                else np.linalg.norm(weights[i + 1] * left[i + 1], axis=1)
            )
            scores = np.abs(weights[i]) * before[:, None] * after
            scores = np.where(masks[i], scores, -1)
            masks[i] = best(scores, round((1 - level) * weights[i].size))
    return masks


@pytest.mark.parametrize("order", [None, "forward", "backward"])
@pytest.mark.parametrize("steps", [1, 3])
def test_passes_are_algorithm_1_again_and_again(order: Any, steps: int) -> None:
    method = Method(order=order, steps=steps)
    levels = [0.7 * step / steps for step in range(1, steps + 1)]
    wanted = by_hand(order, levels)
    found = lookahead_masks(PARAMS, NAMES, 0.7, method=method)
    assert_masks(found, wanted, NAMES)
    traced = jax.jit(lambda params: lookahead_masks(params, NAMES, 0.7, method=method))(PARAMS)
    chex.assert_trees_all_equal(traced, found)


@pytest.mark.parametrize(("order", "steps"), [("forward", 1), ("backward", 2), (None, 2)])
def test_exact_lags_go_with_orders_and_steps(order: Any, steps: int) -> None:
    """Dense layers have none: the masks are those of norms."""
    found = lookahead_masks(PARAMS, NAMES, 0.7, method=Method(lags=True, order=order, steps=steps))
    wanted = lookahead_masks(PARAMS, NAMES, 0.7, method=Method(order=order, steps=steps))
    chex.assert_trees_all_equal(found, wanted)


@pytest.mark.parametrize("order", [None, "backward"])
def test_passes_go_on_from_earlier_masks(order: Any) -> None:
    earlier = lookahead_masks(PARAMS, NAMES, 0.4)
    wanted = by_hand(order, [0.8], kernels(earlier, NAMES))
    method = Method(order=order)
    assert_masks(lookahead_masks(PARAMS, NAMES, 0.8, method=method, masks=earlier), wanted, NAMES)


def test_pinned_layers_are_seen_and_left_whole() -> None:
    graph = chain(PARAMS, NAMES).pin("Dense_1")
    masks = lookahead_masks(PARAMS, graph, 0.8, method=Method(order="forward", steps=2))
    assert bool(jnp.all(masks["Dense_1"]["kernel"]))
    counts = {name: int(masks[name]["kernel"].sum()) for name in NAMES}
    assert counts["Dense_0"] == round(0.2 * PARAMS["Dense_0"]["kernel"].size)

"""The exact selection against NumPy's stable sort, on inputs that break approximations."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lap_jax import PruningError, keep_largest, masks_from_scores

DTYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float64": np.float64,
}
SIZE = 300

select = jax.jit(keep_largest)


def stable(scores: np.ndarray, k: int) -> np.ndarray:
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores.astype(np.float64), axis=None, kind="stable")[:k]] = True
    return mask.reshape(scores.shape)


def inputs(dtype: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    info = ml_dtypes.finfo(dtype)
    normal = np.abs(rng.normal(size=SIZE))
    found = {
        "normal": normal,
        "equal": np.full(SIZE, 0.7),
        "zero": np.zeros(SIZE),
        "one huge": np.where(np.arange(SIZE) == 77, float(info.max), normal),
        "infinite": np.where(np.arange(SIZE) % 50 == 3, np.inf, normal),
        "two values": rng.choice([0.25, 0.5], SIZE),
        "few of many zeros": np.where(normal > 2, normal, 0),
        "rising": np.sort(normal),
        "falling": np.sort(normal)[::-1],
        "neighbours": 1 + float(info.eps) * rng.integers(0, 3, SIZE),
        "wide": np.exp(rng.uniform(np.log(float(info.tiny)), np.log(float(info.max) / 2), SIZE)),
        "subnormal": float(info.smallest_subnormal) * rng.integers(0, 9, SIZE),
    }
    return {name: each.astype(dtype) for name, each in found.items()}


@pytest.mark.parametrize("name", list(inputs(np.float32)))
@pytest.mark.parametrize("dtype", DTYPES)
def test_exactly_k_of_the_largest_and_of_equals_the_first(
    dtype: str, name: str, request: pytest.FixtureRequest
) -> None:
    if dtype == "float64":
        request.getfixturevalue("x64")
    scores = inputs(DTYPES[dtype])[name]
    for k in (0, 1, 2, 5, SIZE // 2, SIZE - 1, SIZE):
        found = select(jnp.asarray(scores), k)
        chex.assert_type(found, bool)
        chex.assert_trees_all_equal(found, stable(scores, k), custom_message=str(k))


@pytest.mark.parametrize("shape", [(1,), (1, 1), (70_000,), (300, 301), (3, 3, 128, 128)])
def test_sizes_around_those_of_the_sample(shape: tuple[int, ...]) -> None:
    scores = np.round(np.abs(np.random.default_rng(1).normal(size=shape)), 3).astype(np.float32)
    for k in {0, 1, scores.size // 60, scores.size // 3, scores.size}:
        chex.assert_trees_all_equal(select(scores, k), stable(scores, k))


def test_a_sample_that_misleads_costs_time_and_nothing_else() -> None:
    """The sample takes every so many: here those are all zero, and all others are not."""
    scores = np.abs(np.random.default_rng(2).normal(size=(1024, 1024))).astype(np.float32)
    scores[::2] = 0
    for k in (10, 1000, 524_288, 524_289, 1_000_000):
        chex.assert_trees_all_equal(select(scores, k), stable(scores, k))


@given(st.data())
def test_masks_nest_and_a_permutation_moves_them(data: Any) -> None:
    numbers = st.floats(0, float(np.float32(3e38)), width=32)
    scores = np.array(data.draw(st.lists(numbers, min_size=40, max_size=40)), np.float32)
    small, large = sorted(data.draw(st.tuples(st.integers(0, 40), st.integers(0, 40))))
    few, many = np.asarray(select(scores, small)), np.asarray(select(scores, large))
    assert few.sum() == small
    assert many.sum() == large
    assert not (few & ~many).any()
    order = np.array(data.draw(st.permutations(range(40))))
    if len(set(scores.tolist())) == 40:
        chex.assert_trees_all_equal(select(scores[order], small), few[order])


@given(st.integers(-60, 60), st.integers(0, 200))
def test_a_power_of_two_changes_nothing(exponent: int, k: int) -> None:
    scores = np.abs(np.random.default_rng(3).normal(size=200)).astype(np.float32)
    scaled = scores * np.float32(2.0**exponent)
    chex.assert_trees_all_equal(select(scaled, k), select(scores, k))


def test_those_outside_come_last_zeros_included() -> None:
    scores = np.array([0, 5, 0, 7, 0], np.float32)
    among = np.array([True, False, True, True, False])
    wanted = {1: [3], 2: [0, 3], 3: [0, 2, 3], 4: [0, 1, 2, 3]}
    for k, places in wanted.items():
        assert np.flatnonzero(
            keep_largest(jnp.asarray(scores), k, jnp.asarray(among))
        ).tolist() == (places)


def test_no_scores_at_all_are_refused() -> None:
    with pytest.raises(PruningError, match="'a' of shape \\(0, 3\\) holds no"):
        masks_from_scores({"a": np.ones((0, 3), np.float32)}, 0.5)

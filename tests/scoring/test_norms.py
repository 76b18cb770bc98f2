"""Norms against NumPy's float64, to the smallest number there is; sums in one order."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lap_jax.scoring.norms import (
    add_up,
    euclidean,
    in_memory,
    is_tiny,
    lifted,
    lowered,
    near_largest,
    power_of_two,
    sum_squares,
)
from tests.networks import Array

TINY, SMALLEST = np.float32(2.0**-126), np.float32(2.0**-149)


norm, total, squares = (
    jax.jit(function, static_argnums=1) for function in (euclidean, add_up, sum_squares)
)


def bits(x: Any) -> Array:
    """Of float32, to compare what processors take for zero."""
    return np.asarray(x, np.float32).view(np.int32)


@pytest.mark.parametrize("size", [1, 2, 8, 9, 10, 11, 27, 64, 97, 500, 784])
def test_add_up_adds_everything_once(size: int) -> None:
    ones = jnp.ones((3, size, 2))
    chex.assert_trees_all_equal(total(ones, 1), np.full((3, 2), size, np.float32))
    chex.assert_trees_all_equal(total(ones, -2), np.full((3, 2), size, np.float32))
    powers = 2.0 ** -np.arange(min(size, 20)).astype(np.float32)
    chex.assert_trees_all_equal(total(jnp.asarray(powers), 0), powers.sum())


SHAPES = {"matrix": (50, 3), "tensor": (3, 7, 10)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("scale", [1e-33, 1.0, 1e36])
def test_norms_neither_overflow_nor_underflow(scale: float, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32) * np.float32(scale)
    for axis in range(len(shape)):
        found = norm(jnp.asarray(x), axis)
        chex.assert_type(found, jnp.float32)
        wanted = np.linalg.norm(x.astype(np.float64), axis=axis)
        chex.assert_trees_all_close(found, wanted, rtol=1e-6)


def test_the_norm_of_nothing_but_zeros_is_zero() -> None:
    chex.assert_trees_all_equal(euclidean(jnp.zeros((5, 2)), 0), np.zeros(2, np.float32))


@given(st.integers(0, 2**31), st.integers(0, 1))
def test_sums_of_squares_are_numpys_where_the_mask_says(seed: int, axis: int) -> None:
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(12, 5)), jnp.float32)
    among = jnp.asarray(rng.random((12, 5)) < 0.5)
    wide = np.square(np.asarray(x, np.float64) / 4)
    scale = jnp.float32(4)
    chex.assert_trees_all_close(squares(x, axis, scale), wide.sum(axis), rtol=1e-6)
    found = squares(x, axis, scale, among)
    chex.assert_trees_all_close(found, np.where(among, wide, 0).sum(axis), rtol=1e-6)
    # What is left out counts as zeros do, to the bit.
    zeroed = squares(jnp.where(among, x, 0), axis, scale)
    chex.assert_trees_all_equal(found, zeroed)


def test_a_sum_is_the_same_to_the_bit_in_any_program() -> None:
    """Alone, jitted, among others of a batch, and with other work on the same numbers."""
    x = jnp.asarray(np.random.default_rng(5).normal(size=(96, 7)), jnp.float32)
    alone = sum_squares(x, 0, jnp.float32(1))
    jitted = jax.jit(lambda x: sum_squares(x, 0, jnp.float32(1)))(x)
    batch = jax.vmap(lambda x: sum_squares(x, 0, jnp.float32(1)))(jnp.stack([x, 2 * x]))
    others = jax.jit(lambda x: (sum_squares(jnp.abs(x), 0, jnp.float32(1)), x.sum()))(x)
    chex.assert_trees_all_equal(alone, jitted, batch[0], others[0])
    chex.assert_trees_all_equal(batch[1], 4 * alone)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_powers_of_two_lie_within_a_factor_of_two(dtype: str) -> None:
    info = jnp.finfo(dtype)
    for value in (info.tiny, 1e-3, 0.5, 0.999, 1, 1.001, 3, info.max):
        x = jnp.asarray(value, dtype)
        found = power_of_two(x)
        chex.assert_shape(found, ())
        chex.assert_type(found, dtype)
        mantissa, _ = np.frexp(float(found))
        assert mantissa == 0.5  # a power of two
        assert 0.5 <= float(x) / float(found) <= 2
    for value in (0, np.inf, np.nan):
        assert float(power_of_two(jnp.asarray(value, dtype))) == 1
    assert power_of_two(info.smallest_subnormal.astype(dtype)) == info.tiny


def test_near_the_largest_of_either_sign() -> None:
    assert float(near_largest(jnp.array([[0.1, -5.0], [3.0, 0.0]]))) in (4.0, 8.0)
    assert float(near_largest(jnp.zeros(3))) == 1


@pytest.mark.parametrize("positive", [0.0, 1.0, float("inf")])
def test_what_is_kept_in_memory_is_what_went_in(positive: float) -> None:
    x = jnp.asarray(np.random.default_rng(6).normal(size=(4, 5)), jnp.float32)
    found = jax.jit(in_memory)(x, jnp.float32(positive))
    chex.assert_trees_all_equal(found, x)


# ---------------------------------------------------------------- subnormal numbers


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.0, SMALLEST], True),
        ([1e-20, TINY], True),
        ([2.0**-41, 0.0], True),
        ([2.0**-40, SMALLEST], False),
        ([-1.0, SMALLEST], False),
        ([np.nan, SMALLEST], False),
        ([np.inf], False),
    ],
)
def test_what_is_tiny(values: list[float], wanted: bool) -> None:
    assert bool(is_tiny(jnp.asarray(values, jnp.float32))) is wanted


@given(st.lists(st.integers(0, 2**24), min_size=8, max_size=8))
def test_lifting_keeps_every_digit(numbers: list[int]) -> None:
    """Subnormal numbers, and normal ones next to them, come to the same multiple of themselves."""
    x = np.array(numbers, np.int32).view(np.float32)  # all below 2**-123
    found = jax.jit(lifted)(jnp.asarray(x), True)
    chex.assert_trees_all_equal(np.asarray(found, np.float64), x.astype(np.float64) * 2.0**100)
    back = jax.jit(lowered)(found, True)
    chex.assert_trees_all_equal(bits(back), bits(x))


def test_what_is_not_tiny_is_left_as_it_is() -> None:
    x = jnp.array([-3.0, 0.0, 1e-45, 7.5], jnp.float32)
    found = lifted(x, jnp.array(False))
    chex.assert_trees_all_equal(bits(found), bits(np.abs(x)))
    chex.assert_trees_all_equal(bits(lowered(found, jnp.array(False))), bits(found))


def test_lowering_rounds_to_the_nearest_subnormal() -> None:
    units = np.array([0.4, 0.6, 1.2, 1000.7, 2.0**23 - 0.3, 2.0**23 + 2], np.float64)
    lifted_up = (units * float(SMALLEST) * 2.0**100).astype(np.float32)
    found = lowered(jnp.asarray(lifted_up), jnp.array(True))
    wanted = lifted_up.astype(np.float64) * 2.0**-100
    chex.assert_trees_all_equal(bits(found), bits(wanted.astype(np.float32)))


@pytest.mark.parametrize("units", [1, 30, 10**4, 10**6])
def test_norms_of_subnormal_numbers_to_the_last_unit(units: int) -> None:
    """Processors take them for zero; lifted before, and lowered after, they are what they are."""
    numbers = np.random.default_rng(7).integers(0, units + 1, (40, 6)).astype(np.int32)
    x = numbers.view(np.float32)
    norms = jax.jit(lambda x: lowered(euclidean(lifted(x, is_tiny(x)), 0), is_tiny(x)))
    wanted = np.sqrt(np.square(numbers.astype(np.float64)).sum(0))
    assert (np.abs(bits(norms(x)) - wanted) <= 0.5 + 1e-6 * wanted).all()

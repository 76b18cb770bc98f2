"""Amplitudes in NumPy, bit for bit those of JAX, which takes what NumPy cannot."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lap_jax.scoring.amplitudes import in_memory, norm, product, scaled, times
from lap_jax.scoring.norms import euclidean

OPERATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "times": (times, jnp.multiply),
    "scaled": (lambda x, _: scaled(x, 0.3), lambda x, _: x * 0.3),
    "norm of two": (
        lambda x, y: norm([x[None], y[None]]), lambda x, y: euclidean(jnp.stack([x, y]), 0)
    ),
    "norm of many": (
        lambda x, y: norm([x.reshape(7, -1), y.reshape(7, -1)]),
        lambda x, y: euclidean(jnp.concatenate([x, y]).reshape(14, -1), 0),
    ),
    "product of two": (lambda x, y: product([x, y]), lambda x, y: jnp.prod(jnp.stack([x, y]), 0)),
    "product of three": (
        lambda x, y: product([x, y, x]), lambda x, y: jnp.prod(jnp.stack([x, y, x]), 0)
    ),
}  # fmt: skip


@pytest.mark.parametrize("spread", [1.0, 10.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_numbers_are_those_of_jax_to_the_bit(name: str, spread: float) -> None:
    own, wanted = OPERATIONS[name]
    x, y = np.exp(spread * np.random.default_rng(0).normal(size=(2, 707))).astype(np.float32)
    x[3] = y[3] = y[5] = 0
    found, right = own(x, y), jax.jit(wanted)(x, y)
    assert isinstance(found, np.ndarray) or name == "product of three" or spread > 1
    assert (found.dtype, found.shape) == (right.dtype, right.shape)
    assert np.asarray(found).tobytes() == np.asarray(right).tobytes()
    traced = jax.jit(own)(x, y)
    assert np.asarray(traced).tobytes() == np.asarray(right).tobytes()


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_subnormal_is_left_to_jax(name: str) -> None:
    own, wanted = OPERATIONS[name]
    for number in (1e-40, 1e-38, 1e-30, 1e30, np.inf, np.nan):
        x = np.full(14, number, np.float32)
        with np.errstate(all="raise"):
            found, right = own(in_memory(x), in_memory(x)), wanted(jnp.asarray(x), jnp.asarray(x))
        np.testing.assert_array_equal(found, right, str(number))
    tiny = jnp.full(3, 1e-40)
    assert in_memory(tiny) is tiny
    assert isinstance(in_memory(jnp.ones(3)), np.ndarray)


def test_a_norm_of_one_row_is_the_row() -> None:
    row = np.array([[1.0, 1e-30]], np.float32)
    assert norm([row]).tobytes() == row.tobytes()


def test_dtypes_are_those_of_jax() -> None:
    half = np.ones(3, np.float32)
    assert scaled(half, 0.5).dtype == np.float32
    assert times(half, half).dtype == np.float32

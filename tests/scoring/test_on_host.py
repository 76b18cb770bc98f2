"""Norms and scores in NumPy, bit for bit those of the compiled programs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lap_jax.scoring import on_host, scores
from lap_jax.scoring.kernels import Layout
from lap_jax.scoring.norms import near_largest

KERNELS: Sequence[tuple[tuple[int, ...], int]] = (
    ((5, 7), 1), ((130, 257), 1), ((1, 1), 1), ((3, 3, 8, 16), 1), ((1, 1, 30, 17), 1),
    ((3, 3, 1, 12), 12), ((3, 3, 4, 24), 3), ((1, 1, 2, 6), 3), ((9, 9, 1, 1), 1),
)  # fmt: skip
CASES = [pytest.param(*case, id=str(case)) for case in KERNELS]


def drawn(shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> jax.Array:
    return jnp.asarray(3 * np.random.default_rng(seed).normal(size=shape), dtype)


def same_bits(found: Any, wanted: jax.Array) -> None:
    assert isinstance(found, np.ndarray | np.generic)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert found.tobytes() == np.asarray(wanted).tobytes()


def rescaled(
    layout: Layout, kernel: jax.Array, input: jax.Array | None, output: jax.Array | None
) -> jax.Array:
    sides = (None if side is None else side / near_largest(side) for side in (input, output))
    return scores.scored(scores.lookahead, layout, kernel, scores.Sides(*sides), {})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("shape", "groups"), CASES)
def test_norms_are_those_of_the_program(shape: tuple[int, ...], groups: int, dtype: Any) -> None:
    kernel = drawn(shape, dtype)
    mask = np.random.default_rng(1).random(shape) < 0.4
    mask.flat[0] = True
    for own in (None, mask):
        top = jax.jit(scores.peak)(kernel, own)
        same_bits(on_host.peak(np.asarray(kernel), own), top)
        wanted = jax.jit(scores.flow, static_argnums=0)(groups, kernel, top, own)
        found = on_host.flow(groups, np.asarray(kernel), np.asarray(top), own)
        assert found is not None
        for each, other in zip(found, wanted, strict=True):
            same_bits(each, other)


@pytest.mark.parametrize(("shape", "groups"), CASES)
def test_scores_are_those_of_the_program(shape: tuple[int, ...], groups: int) -> None:
    kernel, layout = drawn(shape), Layout(shape, groups)
    sides = abs(drawn((shape[-2] * groups,), seed=1)), abs(drawn((shape[-1],), seed=2))
    for own in (sides, (sides[0], None), (None, sides[1]), (None, None)):
        wanted = jax.jit(partial(rescaled, layout))(kernel, *own)
        arrays = (None if side is None else np.asarray(side) for side in own)
        same_bits(on_host.lookahead(layout, np.asarray(kernel), *arrays), wanted)


@pytest.mark.parametrize("number", [1e-40, 1e-30, 1e30, np.inf, np.nan])
def test_numbers_that_programs_take_otherwise_are_left_to_them(number: float) -> None:
    kernel = np.full((2, 3), number, np.float32)
    top = np.float32(number)
    assert on_host.flow(1, kernel, np.asarray(top)) is None
    side = np.full(2, number, np.float32)
    assert on_host.lookahead(Layout((2, 3)), np.ones((2, 3), np.float32), side, None) is None
    mixed = np.array([[1, 1e-19], [0, 1]], np.float32)  # of which a square is subnormal
    assert on_host.flow(1, mixed, np.asarray(np.float32(1))) is None
    assert on_host.flow(1, mixed.round(), np.asarray(np.float32(1))) is not None

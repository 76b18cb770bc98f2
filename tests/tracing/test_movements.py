"""The five steps of moving data, beside NumPy, for each kind of value that they move."""

from __future__ import annotations

import math
from typing import Any

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lap_jax.tracing import views
from lap_jax.tracing.channels import CHANNELS
from lap_jax.tracing.movements import (
    NONE,
    Broadcast,
    Cut,
    Movement,
    Reshape,
    Step,
    Take,
    Transpose,
    array_moves,
    common_groups,
    first,
    move,
    piece,
    spread,
    step_of,
    without,
)
from lap_jax.tracing.views import VIEWS

Array = np.ndarray[Any, Any]


def counted(shape: tuple[int, ...]) -> Array:
    """Every element has its number, from one: what is filled in is zero."""
    return np.arange(1, math.prod(shape) + 1, dtype=np.int32).reshape(shape)


def by_numpy(array: Array, step: Step) -> Array:
    """The step, element by element."""
    match step:
        case Transpose(order):
            return np.transpose(array, order)
        case Reshape(shape):
            return np.reshape(array, shape)
        case Cut():
            for axis, part in enumerate(zip(*step, strict=True)):
                array = array.take(list(range(*part)), axis)
            return array
        case Take(places, axis):
            blank = np.zeros_like(array.take([0], axis))
            parts = [blank if at == NONE else array.take([at], axis) for at in places]
            return np.concatenate(parts, axis)
        case Broadcast(shape, axes):
            found = np.zeros(shape, array.dtype)
            for place in np.ndindex(*shape):
                at = (place[axis] for axis in axes)
                found[place] = array[
                    tuple(i if n > 1 else 0 for i, n in zip(at, array.shape, strict=True))
                ]
            return found


def factors(draw: st.DrawFn, size: int) -> tuple[int, ...]:
    """A shape of so many elements, with ones in between."""
    shape = []
    for _ in range(3):
        by = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
        shape.append(by)
        size //= by
    return (*shape, size)


@st.composite
def steps(draw: st.DrawFn, shape: tuple[int, ...], fills: bool = True) -> Step:
    kinds: list[type[Step]] = [Transpose, Reshape, Cut, Take, Broadcast]
    kind, axes = draw(st.sampled_from(kinds)), range(len(shape))
    if kind is Transpose:
        return Transpose(tuple(draw(st.permutations(axes))))
    if kind is Reshape:
        return Reshape(factors(draw, math.prod(shape)))
    if kind is Take:
        axis = draw(st.sampled_from(axes))
        place = st.integers(NONE if fills else 0, shape[axis] - 1)
        return Take(np.array(draw(st.lists(place, min_size=1, max_size=4))), axis)
    if kind is Cut:
        ranges = []
        for size in shape:
            start, stop = sorted(draw(st.tuples(*[st.integers(0, size - 1)] * 2)))
            by, backwards = draw(st.integers(1, 3)), draw(st.booleans())
            ranges.append((stop, start - 1, -by) if backwards else (start, stop + 1, by))
        return Cut(*zip(*ranges, strict=True))
    sizes = [draw(st.integers(1, 2)) if size == 1 else size for size in shape]
    at = draw(st.integers(0, len(shape)))
    new = (*sizes[:at], draw(st.integers(1, 2)), *sizes[at:])
    return Broadcast(new, tuple(axis + (axis >= at) for axis in axes))


@st.composite
def movements(draw: st.DrawFn, fills: bool = True) -> tuple[tuple[int, ...], Movement]:
    """A shape, and steps from it."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    array, found = counted(shape), []
    for _ in range(draw(st.integers(1, 3))):
        step = draw(steps(array.shape, fills))
        array = by_numpy(array, step)
        found.append(step)
    return shape, tuple(found)


def moved_by_numpy(array: Array, movement: Movement) -> Array:
    for step in movement:
        array = by_numpy(array, step)
    return array


@given(case=movements())
def test_arrays_move_as_numpy_moves_them(case: tuple[tuple[int, ...], Movement]) -> None:
    shape, movement = case
    wanted = moved_by_numpy(counted(shape), movement)
    found = move(array_moves(np), counted(shape), movement)
    chex.assert_trees_all_equal(found, wanted)


@settings(max_examples=4)  # every shape is compiled
@given(case=movements())
def test_jax_arrays_move_as_numpy_moves_them(case: tuple[tuple[int, ...], Movement]) -> None:
    shape, movement = case
    wanted = moved_by_numpy(counted(shape), movement)
    found = move(array_moves(jnp), jnp.asarray(counted(shape)), movement)
    chex.assert_shape(found, wanted.shape)
    chex.assert_trees_all_equal(np.asarray(found), wanted)


@given(case=movements())
def test_channel_numbers_move_as_numpy_moves_them(case: tuple[tuple[int, ...], Movement]) -> None:
    shape, movement = case
    wanted = moved_by_numpy(counted(shape), movement)
    found = move(CHANNELS, counted(shape) - 1, movement)
    chex.assert_shape(found, wanted.shape)
    assert found.dtype == np.int32
    # What has been spread does not know of what is filled in.
    same = np.where((found != NONE) & (wanted == 0), 0, found + 1)
    chex.assert_trees_all_equal(same, wanted)
    if not any(isinstance(step, Broadcast) for step in movement):
        chex.assert_trees_all_equal(found + 1, wanted)


@given(case=movements(fills=False), axis=st.integers(0, 2))
def test_channel_numbers_that_do_not_change_along_axes_move_as_those_that_do(
    case: tuple[tuple[int, ...], Movement], axis: int
) -> None:
    shape, movement = case
    axis %= len(shape)
    ids = np.broadcast_to(counted(shape).take([0], axis), shape)
    found = move(CHANNELS, ids, movement)
    chex.assert_trees_all_equal(found, moved_by_numpy(np.array(ids), movement))


@given(case=movements())
def test_views_move_as_numpy_moves_them_or_not_at_all(
    case: tuple[tuple[int, ...], Movement],
) -> None:
    shape, movement = case
    view = move(VIEWS, views.whole("a", shape), movement)
    wanted = moved_by_numpy(counted(shape), movement)
    if view is None:
        assert any(isinstance(step, (Reshape, Take)) for step in movement)
        return
    chex.assert_trees_all_equal(view.shape, wanted.shape)
    found = np.broadcast_to(views.entries(view, range(len(view.shape))), view.shape)
    chex.assert_trees_all_equal(found.astype(np.int32) + 1, wanted)


@pytest.mark.parametrize(
    ("shape", "movement", "wanted"),
    [
        ((4, 6), piece((4, 6), 1, 2, 5), np.s_[:, 2:5]),
        ((4, 6), piece((4, 6), 0, 3, -1, -2), np.s_[::-2]),
        ((4, 6), (first((4, 6), [0]),), np.s_[:1]),
        ((4, 6), step_of((4, 6), 2), np.s_[2]),
    ],
)
def test_pieces_are_slices(shape: tuple[int, ...], movement: Movement, wanted: Any) -> None:
    found = move(array_moves(np), counted(shape), movement)
    chex.assert_trees_all_equal(found, counted(shape)[wanted])


def test_what_does_not_change_is_spread_and_left_out() -> None:
    array = np.broadcast_to(np.arange(3), (4, 2, 3))
    wide = move(array_moves(np), array, spread((4, 2, 3), [0, 1], (7, 1, 3)))
    chex.assert_trees_all_equal(wide, np.broadcast_to(np.arange(3), (7, 1, 3)))
    thin = move(array_moves(np), array, without((4, 2, 3), [0, 1], (3, 5), [0]))
    chex.assert_trees_all_equal(thin, np.broadcast_to(np.arange(3)[:, None], (3, 5)))
    turned = move(
        array_moves(np), counted((2, 1, 3)), without((2, 1, 3), [1], (3, 2), [0, 1], [2, 0])
    )
    chex.assert_trees_all_equal(turned, counted((2, 3)).T)


def test_arrays_and_channel_numbers_are_concatenated() -> None:
    parts = [counted((2, 3)), np.broadcast_to(np.int32(7), (2, 1))]
    wanted = np.concatenate(parts, 1)
    for moves in (array_moves(np), array_moves(jnp), CHANNELS):
        chex.assert_trees_all_equal(np.asarray(moves.concatenate(parts, 1)), wanted)


def test_shapes_are_split_into_the_least_runs_of_axes() -> None:
    assert common_groups((2, 6, 5), (2, 2, 3, 5)) == [((0,), (0,)), ((1,), (1, 2)), ((2,), (3,))]
    assert common_groups((4, 6), (6, 4)) == [((0, 1), (0, 1))]
    assert common_groups((), (1,)) == [((), (0,))]
    assert common_groups((3, 1), (3,)) == [((0,), (0,)), ((1,), ())]

"""Channel numbers: what is numbered, told apart, and left unwritten."""

from __future__ import annotations

import chex
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lap_jax.tracing import channels
from lap_jax.tracing.movements import NONE


def test_channels_are_numbered_row_by_row_over_the_axes_as_listed() -> None:
    ids = channels.numbered((2, 3, 4), [2, 1], [4, 3])
    wanted = np.arange(4)[None, None, :] * 3 + np.arange(3)[None, :, None]
    chex.assert_trees_all_equal(ids, np.broadcast_to(wanted, (2, 3, 4)).astype(np.int32))
    chex.assert_shape(channels.small(ids), (1, 3, 4))


@pytest.mark.parametrize(
    ("axes", "same"), [([0], True), ([1], False), ([2], True), ([0, 2], True), ([-2], False)]
)
def test_whether_channels_change_along_axes(axes: list[int], same: bool) -> None:
    ids = channels.numbered((2, 3, 4), [1], [3])
    assert channels.constant(ids, axes) == same
    assert channels.constant(np.array(ids), axes) == same  # written out


def test_what_is_moved_stays_unwritten_where_nothing_changes() -> None:
    ids = channels.numbered((1000, 3, 4), [1, 2], [3, 4])
    for moved in (
        channels.reshape(ids, (10, 100, 12)),
        channels.broadcast(ids, (1000, 7, 3, 4), (0, 2, 3)),
        channels.take(ids, np.array([NONE, 5, 5]), 0),
        channels.concatenate([ids, ids], 2),
    ):
        assert moved.strides[0] == 0


def test_of_ids_without_a_channel_none_is_held() -> None:
    assert not channels.holds_any(channels.nothing((3, 4)))
    assert channels.holds_any(channels.numbered((3, 4), [1], [4]))
    assert channels.holds_any(channels.nothing((0, 4)))


IDS = hnp.arrays(np.int32, (3, 4), elements=st.integers(NONE, 3))


@given(columns=st.tuples(IDS, IDS, IDS), own=st.integers(1, 3))
def test_combinations_are_numbered_as_they_first_appear(
    columns: tuple[np.ndarray, ...], own: int
) -> None:
    numbers, rows = channels.distinct(columns, own)
    wanted: dict[tuple[int, ...], int] = {}
    for place in np.ndindex(3, 4):
        combination = tuple(int(column[place]) for column in columns)
        if set(combination[:own]) == {NONE}:
            assert numbers[place] == NONE
        else:
            assert numbers[place] == wanted.setdefault(combination, len(wanted))
    assert [tuple(map(int, row)) for row in rows] == list(wanted)

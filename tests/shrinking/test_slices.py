"""Boxes of slices, and arrays brought from one to another."""

import chex
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lap_jax.shrinking.slices import (
    brought,
    everything,
    is_empty,
    places_in,
    sizes,
    taken,
    union,
    within,
)

BITS = st.tuples(*(st.lists(st.booleans(), min_size=n, max_size=n) for n in (3, 4)))


@given(have=BITS, want=BITS)
def test_what_is_there_is_brought_and_the_rest_filled_in(have: object, want: object) -> None:
    own, wanted = (tuple(np.array(part) for part in each) for each in (have, want))  # type: ignore[attr-defined]
    numbers = [np.array([10.0, 11, 12]), None]
    whole = np.arange(12.0).reshape(3, 4)
    expected = np.where(own[0][:, None] & own[1], whole, 0)
    missing = ~own[0][:, None] & np.ones(4, bool)
    expected = np.where(missing & own[1], numbers[0][:, None], expected)[np.ix_(*wanted)]  # type: ignore[index]
    found = np.asarray(brought(jnp.asarray(whole[np.ix_(*own)]), own, wanted, numbers))
    # Where both axes lack a slice the later one's fill holds: of constants both would be equal.
    chex.assert_shape(found, sizes(wanted))
    told = np.ix_(*wanted)
    both = (own[1] & np.ones((3, 1), bool))[told]
    np.testing.assert_array_equal(found[both], expected[both])


def test_slices_in_a_row_are_cut_and_others_gathered() -> None:
    array = np.arange(12).reshape(3, 4)
    for places in ([0, 1, 2, 3], [1, 2], [0, 3], [3, 1], []):
        index = np.array(places, int)
        np.testing.assert_array_equal(taken(jnp.asarray(array), 1, index), array[:, index])
        np.testing.assert_array_equal(taken(array, 1, index), array[:, index])


def test_boxes() -> None:
    a, b = (np.array([True, False, True]),), (np.array([False, True, False]),)
    assert within(a, everything((3,)))
    assert not within(everything((3,)), a)
    assert is_empty((np.zeros(2, bool), np.ones(3, bool)))
    assert not is_empty(a)
    assert union(None, a) is a
    assert union(a, None) is a
    both = union(a, b)
    assert both is not None
    assert sizes(both) == (3,)
    np.testing.assert_array_equal(places_in(a[0], np.array([False, False, True])), [1])

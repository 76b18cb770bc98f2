"""What is known of values: constant slices of arrays, by axis and by entry."""

import numpy as np

from lap_jax.shrinking.facts import Constant, by_entry, constants_of, known, of_axes, varying, zeros


def test_slices_of_an_array_that_hold_one_number() -> None:
    array = np.array([[1.0, 2, 0], [1, 3, 0]])
    rows, columns = constants_of(array, None, (2, 3))
    assert rows is None
    assert columns is not None
    np.testing.assert_array_equal(columns.where, [True, False, True])
    np.testing.assert_array_equal(columns.value[[0, 2]], [1, 0])


def test_what_training_may_change_is_no_constant() -> None:
    array, fixed = np.zeros((2, 2)), np.array([[True, False], [True, True]])
    rows, columns = constants_of(array, fixed, (2, 2))
    assert rows is not None
    assert columns is not None
    np.testing.assert_array_equal(rows.where, [False, True])
    np.testing.assert_array_equal(columns.where, [True, False])
    facts = known(array, (2, 2), float, fixed, True)
    np.testing.assert_array_equal(facts.alive, ~fixed)


def test_a_repeated_array_is_fixed_entry_by_entry_or_as_a_whole() -> None:
    """Each of the two may be there once for all of an axis."""
    fixed = np.array([[True, True, False], [True, True, True]])
    for array, own in ((np.zeros((1, 1)), fixed), (np.zeros((2, 3)), fixed[:, :1])):
        rows, columns = constants_of(array, own, (2, 3))
        assert rows is not None
        assert columns is not None
        np.testing.assert_array_equal(rows.where, np.broadcast_to(own, (2, 3)).all(1))
        np.testing.assert_array_equal(columns.where, np.broadcast_to(own, (2, 3)).all(0))
        assert rows.value.shape == (2,)
        assert columns.value.shape == (3,)


def test_repeated_axes_take_no_memory() -> None:
    facts = known(np.array([[0.0, 2.0]]), (1000, 2), np.float32, None, True)
    part = facts.constants[1]
    assert part is not None
    np.testing.assert_array_equal(part.value, [0, 2])
    assert facts.constants[0] is None
    np.testing.assert_array_equal(facts.zero(1), [True, False])
    np.testing.assert_array_equal(facts.varies(0), np.ones(1000, bool))


def test_one_number_is_constant_along_every_axis() -> None:
    facts = zeros((2, 3), np.float32, [np.ones(2, bool), None])
    assert all(facts.zero(axis).all() for axis in (0, 1))
    rows = Constant(np.ones(2, bool), np.array([1.0, 2.0]))
    facts = of_axes((2, 3), np.float32, [rows, None])
    assert facts.constants[1] is None
    assert varying((2,), int).fills == (None,)


def test_entries_are_constant_where_a_slice_is() -> None:
    rows = Constant(np.array([True, False]), np.array([5.0, 0.0]))
    columns = Constant(np.array([False, True, False]), np.array([0.0, 7.0, 0.0]))
    found = by_entry([rows, columns], (2, 3))
    assert found is not None
    np.testing.assert_array_equal(found[0], [[True, True, True], [False, True, False]])
    assert found[1][0, 0] == 5
    assert found[1][1, 1] == 7
    assert by_entry([None, None], (2, 3)) is None

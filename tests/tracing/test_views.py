"""Views show entries of a leaf as strides; what no strides tell is None."""

import numpy as np
import pytest

from lap_jax.tracing import views

LEAF = np.arange(24).reshape(2, 3, 4)


def shown(view: views.View | None) -> np.ndarray:
    """The entries of the leaf, as the view has them."""
    assert view is not None
    return views.entries(view, range(len(view.shape)))


def whole() -> views.View:
    return views.whole("leaf", LEAF.shape)


def test_a_leaf_is_all_of_its_entries() -> None:
    np.testing.assert_array_equal(shown(whole()), LEAF)
    assert views.entries(whole(), [1]).shape == (1, 3, 1)


def test_movements_of_movements() -> None:
    view = views.transpose(views.cut(whole(), (0, 2, 1), (2, -1, 4), (1, -1, 2)), (2, 0, 1))
    np.testing.assert_array_equal(shown(view), LEAF[:, ::-1, 1:4:2].transpose(2, 0, 1))


def test_reshapes_that_strides_tell_and_others() -> None:
    np.testing.assert_array_equal(shown(views.reshape(whole(), (6, 2, 2))), LEAF.reshape(6, 2, 2))
    turned = views.transpose(whole(), (1, 0, 2))
    assert views.reshape(turned, (6, 4)) is None
    np.testing.assert_array_equal(
        shown(views.reshape(turned, (3, 2, 2, 2))), LEAF.transpose(1, 0, 2).reshape(3, 2, 2, 2)
    )


@pytest.mark.parametrize(("places", "told"), [([1, 2], True), ([2, 0], True), ([0, 0, 1], False)])
def test_taking_is_told_where_places_are_a_slice(places: list[int], told: bool) -> None:
    found = views.take(whole(), np.array(places), 1)
    assert (found is not None) == told
    if told:
        np.testing.assert_array_equal(shown(found), LEAF[:, places])


def test_views_side_by_side_are_no_view() -> None:
    assert views.concatenate([whole()], 0) == whole()
    assert views.concatenate([whole(), whole()], 0) is None

"""The collection of data sets: what it finds, and how it cuts and resizes."""

import chex
import pytest

from experiments.data import SOURCES, DataError, load


def test_unknown_names_are_refused() -> None:
    with pytest.raises(DataError, match="unknown data set 'minst'"):
        load("minst")


def test_every_data_set_of_the_folder_is_found() -> None:
    texts = {"python_reference", "python_source"}
    assert set(SOURCES) == {"digits", "mnist", "fashion_mnist", "cifar10"} | texts
    assert all(bool(source.arrays) != bool(source.published) for source in SOURCES.values())


def test_the_first_examples_resized() -> None:
    whole, some = load("digits"), load("digits", train_on=50, side=16)
    chex.assert_shape([some.train_x, some.test_x], [(50, 16, 16, 1), (360, 16, 16, 1)])
    chex.assert_trees_all_equal(some.train_y, whole.train_y[:50])
    # Each pixel becomes four between its neighbours: the mean stays about what it was.
    chex.assert_trees_all_close(
        some.train_x.mean((1, 2, 3)), whole.train_x[:50].mean((1, 2, 3)), atol=0.05
    )

import chex
import numpy as np

from experiments.data import load


def test_digits_are_normalised_split_for_good_and_stratified() -> None:
    data = load("digits")
    chex.assert_shape([data.train_x, data.test_x], [(1437, 8, 8, 1), (360, 8, 8, 1)])
    chex.assert_type([data.train_x, data.train_y], [np.float32, np.int32])
    assert abs(data.train_x.mean()) < 1e-5
    assert abs(data.train_x.std() - 1) < 1e-5
    assert np.bincount(data.test_y).min() >= 34
    chex.assert_trees_all_equal(load("digits"), data)
    everything = np.concatenate([data.train_x, data.test_x]).reshape(1797, -1)
    assert len(np.unique(everything, axis=0)) == 1797  # no image is in both parts

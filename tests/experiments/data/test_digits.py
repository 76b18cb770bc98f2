import numpy as np

from experiments.data import load


def test_digits_are_normalised_split_for_good_and_stratified():
    data = load("digits")
    assert data.train_x.shape == (1437, 8, 8, 1)
    assert data.test_x.shape == (360, 8, 8, 1)
    assert (data.train_x.dtype, data.train_y.dtype) == (np.float32, np.int32)
    assert abs(data.train_x.mean()) < 1e-5
    assert abs(data.train_x.std() - 1) < 1e-5
    assert np.bincount(data.test_y).min() >= 34
    again = load("digits")
    assert (again.train_x == data.train_x).all()
    everything = np.concatenate([data.train_x, data.test_x]).reshape(1797, -1)
    assert len(np.unique(everything, axis=0)) == 1797  # no image is in both parts

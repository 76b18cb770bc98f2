"""The floor makes the masks that NumPy makes, of every size."""

import chex
import numpy as np
import pytest

from experiments.benchmarks.floor import native


def test_masks_are_those_of_numpy_below_and_above_the_size_for_two_threads() -> None:
    rng = np.random.default_rng(0)
    # 65,536 weights are shared by two threads; the rest that 64 does not divide is the second's.
    kernels = [
        rng.standard_normal(shape, np.float32)
        for shape in ((1, 1), (3, 5), (65_535,), (65_536,), (7, 11, 1013))
    ]
    thresholds = [0.5, float(abs(kernels[1]).max()), 1.0, 2.0, 0.0]
    wanted = [
        abs(kernel) >= np.float32(threshold)
        for kernel, threshold in zip(kernels, thresholds, strict=True)
    ]
    assert wanted[1].sum() == 1  # a weight at the threshold stays
    run = native(kernels, thresholds)
    chex.assert_trees_all_equal(run(), wanted, strict=True)
    chex.assert_trees_all_equal(run(), wanted, strict=True)


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="no C compiler: cc"):
        native([], [])

"""Shapes of known networks, by hand."""

import chex
import numpy as np
import pytest

from experiments.benchmarks.workloads import matrices, resnet18, squares, vgg19


def test_vgg19_has_its_weights() -> None:
    """Simonyan & Zisserman's configuration E, with one dense layer for ten classes."""
    pairs = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), *[(256, 256)] * 3, (256, 512)]
    wanted = 9 * sum(a * b for a, b in [*pairs, *[(512, 512)] * 7]) + 512 * 10
    assert vgg19().size == wanted
    assert len(vgg19().kernels) == 17


def test_resnet18_has_the_weights_of_its_main_path() -> None:
    """A 3x3 stem, two blocks of two convolutions for each width, a dense layer for ten classes."""
    pairs = [(3, 64), *[(64, 64)] * 4]
    for narrow, wide in ((64, 128), (128, 256), (256, 512)):
        pairs += [(narrow, wide), *[(wide, wide)] * 3]
    assert resnet18().size == 9 * sum(a * b for a, b in pairs) + 512 * 10
    assert len(resnet18().kernels) == 18


@pytest.mark.parametrize("size", [10, 4096, 100_000])
def test_three_squares_have_about_as_many_weights_as_asked(size: int) -> None:
    kernels = squares(size).kernels
    side = len(kernels[0])
    chex.assert_shape(kernels, (side, side))
    assert side % 16 == 0
    assert len(kernels) == 3
    # The side is the nearest multiple of 16, or 16 at least.
    assert abs(side - (size / 3) ** 0.5) <= 8 or side == 16


def test_weights_are_the_same_each_time_and_normal() -> None:
    first, again = matrices("m", 200, 2), matrices("m", 200, 2)
    chex.assert_trees_all_equal(first.kernels, again.kernels)
    chex.assert_type(first.kernels, np.float32)
    assert (first.kernels[0] != first.kernels[1]).any()
    assert np.std(first.kernels) == pytest.approx(1, abs=0.02)

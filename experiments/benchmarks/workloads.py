"""What is pruned in a benchmark: random weights in the shapes of known networks."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

KEPT = 0.0163
"""Share of the weights that stay: VGG-19's third level in the paper's Table 4."""

LAST = 0.85**27
"""Share of the weights that stay at VGG-19's last level in the paper's Table 5, 1.24%."""


class Workload(NamedTuple):
    """Kernels in the order of the network: each reads what the one before it gives."""

    name: str
    kernels: list[np.ndarray]

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(kernel.size for kernel in self.kernels)


def vgg19() -> Workload:
    """Return VGG-19 for CIFAR-10: 16 convolutions and one dense layer, 20M weights."""
    widths = [64, 64, 128, 128, *[256] * 4, *[512] * 8]
    return _convolutions("vgg19", [3, *widths])


def resnet18() -> Workload:
    """Return ResNet-18's 3x3 convolutions and dense layer as a plain chain, shortcuts left out."""
    return _convolutions("resnet18", [3, *[64] * 5, *[128] * 4, *[256] * 4, *[512] * 4])


def matrices(name: str, width: int, count: int = 1) -> Workload:
    """Return ``count`` dense layers of ``width x width``."""
    rng = np.random.default_rng(0)
    shape = (width, width)
    return Workload(name, [rng.standard_normal(shape, np.float32) for _ in range(count)])


def squares(size: int) -> Workload:
    """Return three matrices of about ``size`` weights in all; their sides are multiples of 16."""
    return matrices(f"{size:,}", 16 * max(round(math.sqrt(size / 3) / 16), 1), 3)


def _convolutions(name: str, widths: list[int]) -> Workload:
    rng = np.random.default_rng(0)
    shapes: list[tuple[int, ...]] = [
        (3, 3, fan_in, fan_out) for fan_in, fan_out in itertools.pairwise(widths)
    ]
    shapes.append((widths[-1], 10))
    return Workload(
        name,
        [
            rng.standard_normal(shape, np.float32) * np.float32((2 / math.prod(shape[:-1])) ** 0.5)
            for shape in shapes
        ],
    )


WORKLOADS = {
    "vgg19": vgg19,
    "resnet18": resnet18,
    "matrix": lambda: matrices("matrix", 10_000),
    "stack": lambda: matrices("stack", 10_000, 10),
}

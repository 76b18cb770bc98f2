"""Small networks that many tests share, and how they compare masks.

Shapes are few on purpose: what XLA has compiled for a shape serves every test that uses it again.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
import pytest

from lap_jax import LayerSpec, PruningError
from tests import oracle

Array = np.ndarray[Any, Any]

WIDTHS = (7, 9, 8, 5)
"""Of a dense network: three layers of different shapes."""

EQUAL = (8, 8, 8, 8)
"""Three layers of one shape, which blocks and groups divide: one program serves them all."""


def mlp(seed: int = 0, widths: Sequence[int] = WIDTHS, dtype: Any = np.float32) -> oracle.Tree:
    """``Dense_0``, ``Dense_1``, ... with kernels and biases."""
    return oracle.dense_tree(np.random.default_rng(seed), widths, dtype)


def tree(**shapes: tuple[int, ...]) -> oracle.Tree:
    """Layers by name, each with a kernel of that shape and nothing else."""
    rng = np.random.default_rng(0)
    return {
        name: {"kernel": rng.normal(size=shape).astype(np.float32)}
        for name, shape in shapes.items()
    }


def norms_of(*sizes: int) -> tuple[oracle.Tree, oracle.Tree]:
    """``BatchNorm_0``, ... of so many channels: parameters and statistics."""
    return oracle.norm_trees(np.random.default_rng(0), sizes)


def full_of(value: float, widths: Sequence[int] = WIDTHS) -> oracle.Tree:
    """The same layers without biases, all weights equal."""
    return {
        f"Dense_{i}": {"kernel": np.full(shape, value, np.float32)}
        for i, shape in enumerate(itertools.pairwise(widths))
    }


class Normed(NamedTuple):
    """A network with batch norms between its layers.

    Attributes:
      params, stats: as Flax lays them out; the layers are ``Layer_0``, ``Layer_1``, ...
      declared: for `lap_jax.chain`.
      layers: for the oracle.
    """

    params: oracle.Tree
    stats: oracle.Tree
    declared: list[Any]
    layers: list[oracle.Layer]

    @property
    def names(self) -> list[str]:
        """The layers' names."""
        return [f"Layer_{i}" for i in range(len(self.layers))]


def conv_net(seed: int = 0) -> Normed:
    """Conv, depthwise, grouped conv, flatten, two dense layers; batch norms with both signs."""
    shapes = [(3, 3, 2, 4), (3, 3, 1, 4), (2, 2, 2, 6), (3 * 3 * 6, 7), (7, 9)]
    return _normed(seed, shapes, [1, 4, 2, 1, 1])


def short_net(seed: int = 0) -> Normed:
    """Grouped conv, flatten, two dense layers."""
    return _normed(seed, [(2, 2, 2, 6), (3 * 3 * 6, 7), (7, 9)], [2, 1, 1])


def _normed(seed: int, shapes: Sequence[tuple[int, ...]], groups: Sequence[int]) -> Normed:
    rng = np.random.default_rng(seed)
    params: oracle.Tree = {
        f"Layer_{i}": {"kernel": rng.normal(size=shape).astype(np.float32)}
        for i, shape in enumerate(shapes)
    }
    names = list(params)
    norms, stats = oracle.norm_trees(rng, [shape[-1] for shape in shapes[:-1]])
    gains = [oracle.gain(norms, stats, name) for name in norms] + [None]
    layers = oracle.layers_of(params, names, gain=gains, groups=groups)
    declared: list[Any] = []
    for i, name in enumerate(names):
        declared += [LayerSpec(name, groups=groups[i]), *list(norms)[i : i + 1]]
    return Normed(params | norms, stats, declared, layers)


def kernels(tree: Any, names: Iterable[str]) -> list[Array]:
    """The kernels of layers, or what a tree has in their places."""
    return [np.asarray(tree[name]["kernel"]) for name in names]


def assert_close(found: dict[str, jax.Array], wanted: Sequence[Any], rtol: float) -> None:
    """Scores by layer are those, of their shapes, to float64 where they are float64."""
    chex.assert_trees_all_close(dict(found), dict(zip(found, wanted, strict=True)), rtol=rtol)


def assert_masks(found: Any, wanted: Sequence[Any], names: Iterable[str]) -> None:
    """The masks of the named layers are boolean and equal, entry by entry."""
    names = list(names)
    masks = kernels(found, names)
    chex.assert_type(masks, bool)
    chex.assert_trees_all_equal(
        dict(zip(names, masks, strict=True)), dict(zip(names, wanted, strict=True))
    )


def assert_kept(found: Any, counts: Sequence[int], names: Iterable[str]) -> None:
    """The masks of the named layers keep so many weights."""
    assert [int(np.count_nonzero(mask)) for mask in kernels(found, names)] == list(counts)


def assert_same_kernels(found: Any, wanted: Any) -> None:
    """Two trees of masks hold the same in the places of all kernels of the second."""
    names = [name for name in wanted if "kernel" in wanted[name]]
    assert_masks(found, kernels(wanted, names), names)


def stack(trees: Iterable[Any]) -> Any:
    """Trees of one structure as one tree with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def refused(*parts: str) -> Any:
    """A `PruningError` whose message holds all the parts, in any order."""
    return pytest.raises(PruningError, match="".join(f"(?=.*{re.escape(p)})" for p in parts))

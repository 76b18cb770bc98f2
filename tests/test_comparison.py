"""What two masks share, against sets of places counted one by one."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lap_jax
from lap_jax import PruningError, compare


def masks(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    shapes = {"conv": (3, 3, 2, 4), "dense": (8, 5)}
    return {
        name: {"kernel": jnp.asarray(rng.random(shape) < 0.4), "bias": jnp.bool_(True)}
        for name, shape in shapes.items()
    }


def places(mask: Any) -> set[tuple[int, ...]]:
    every = itertools.product(*map(range, mask.shape))
    return {place for place in every if bool(mask[place])}


def test_counts_are_those_of_sets() -> None:
    first, second = masks(0), masks(1)
    found = compare(first, second)
    assert [row.layer for row in found.rows] == ["conv", "dense"]
    for row in found.rows:
        a, b = (places(np.asarray(each[row.layer]["kernel"])) for each in (first, second))
        assert (row.shared, row.only_a, row.only_b) == (len(a & b), len(a - b), len(b - a))
        assert row.overlap == len(a & b) / len(a | b)
        assert row.size == np.prod(row.shape)
    both = jax.tree.map(jnp.logical_and, first, second)
    assert found.total.shared == lap_jax.summarize(both).total.kept
    assert found.total.size == 3 * 3 * 2 * 4 + 8 * 5


def test_a_mask_shares_everything_with_itself_and_nothing_with_its_opposite() -> None:
    first = masks(0)
    same = compare(first, first).total
    assert (same.only_a, same.only_b, same.overlap) == (0, 0, 1.0)
    opposite = jax.tree.map(jnp.logical_not, first)
    other = compare(first, opposite).total
    assert (other.shared, other.overlap) == (0, 0.0)
    assert other.only_a + other.only_b == other.size
    nothing = jax.tree.map(jnp.zeros_like, first)
    assert compare(nothing, nothing).total.overlap == 1.0


def test_a_scalar_stands_for_a_whole_kernel_and_numbers_for_truth() -> None:
    first = masks(0)
    whole = {name: jnp.bool_(True) for name in first}
    kernels = {name: each["kernel"].astype(jnp.int32) for name, each in first.items()}
    total = compare(whole, kernels).total
    assert (total.shared, total.only_b) == (lap_jax.summarize(first).total.kept, 0)
    assert total.only_a == total.size - total.shared


def test_the_table_names_layers_and_the_total() -> None:
    lines = str(compare(masks(0), masks(1))).splitlines()
    assert lines[0].split() == ["layer", "shape", "weights", "shared", "only", "a", "only", "b",
                                "overlap"]  # fmt: skip
    assert [line.split()[0] for line in lines[2:]] == ["conv", "dense", "total"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"a": jnp.ones((2, 3), bool)}, "'a' has shape .2, 2. in masks_a and .2, 3. in masks_b"),
        ({"b": jnp.ones((2, 2), bool)}, "masks_b hold no 'a'"),
        ({"a": jnp.full((2, 2), 0.5)}, "the mask at 'a' in masks_b is float32"),
    ],
)
def test_masks_of_other_networks_are_refused(second: Any, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        compare({"a": jnp.ones((2, 2), bool)}, second)


def test_masks_without_a_kernel_are_refused() -> None:
    with pytest.raises(PruningError, match="hold no kernel"):
        compare({"bias": jnp.ones(3, bool)}, {"bias": jnp.ones(3, bool)})

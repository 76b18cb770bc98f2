"""Leaves and states cut and grown again."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import lap_jax
from lap_jax.shrinking.cuts import Kept, cut, grown, sliced

BOX = (np.array([True, False, True]), np.array([False, True, True, True]))
LARGE = jnp.arange(12.0).reshape(3, 4)


def test_a_leaf_is_cut_and_grown() -> None:
    kept = Kept((3, 4), (BOX,))
    small = cut(LARGE, kept)
    np.testing.assert_array_equal(small, np.arange(12).reshape(3, 4)[np.ix_(*BOX)])
    back = grown(small + 100, LARGE, kept)
    expected = np.arange(12.0).reshape(3, 4)
    expected[np.ix_(*BOX)] += 100
    np.testing.assert_array_equal(back, expected)


def test_steps_of_a_stack_keep_slices_of_their_own() -> None:
    sets = (tuple(BOX), (~np.array([True, False, False]), BOX[1]))
    kept = Kept((2, 3, 4), sets, True)
    stack = jnp.stack([LARGE, -LARGE])
    small = cut(stack, kept)
    chex.assert_shape(small, (2, 2, 3))
    np.testing.assert_array_equal(small[1], -LARGE[1:, 1:])
    np.testing.assert_array_equal(grown(small, stack, kept), stack)


KEPT = {"a/kernel": Kept((3, 4), (BOX,)), "a/bias": Kept((4,), (BOX[1:],))}
PARAMS = {"a": {"kernel": LARGE, "bias": jnp.arange(4.0)}}


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(1e-3),
        optax.lion(1e-3),
        optax.chain(optax.clip(1.0), optax.sgd(0.1, momentum=0.9)),
        optax.multi_transform({"x": optax.adam(1e-3)}, {"a": "x"}),
        lap_jax.keep_pruned(optax.adamw(1e-3), jax.tree.map(lambda leaf: leaf > 0, PARAMS)),
    ],
)
def test_states_of_optimizers_are_cut_as_parameters_are(optimizer: Any) -> None:
    small = sliced(PARAMS, PARAMS, KEPT)
    state = optimizer.init(PARAMS)
    found = sliced(state, PARAMS, KEPT)
    chex.assert_trees_all_equal_structs(found, state)
    moments = [leaf for leaf in jax.tree.leaves(found) if leaf.ndim == 2]
    assert moments
    chex.assert_equal_shape([small["a"]["kernel"], *moments])


def test_a_factored_state_is_cut_or_refused() -> None:
    params = {"w": jnp.ones((400, 300))}
    optimizer = optax.adafactor(1e-3)
    state = optimizer.init(params)

    def kept(rows: int, columns: int) -> dict[str, Kept]:
        return {"w": Kept((400, 300), ((np.arange(400) < rows, np.arange(300) < columns),))}

    box = kept(200, 150)
    small = sliced(params, params, box)
    chex.assert_trees_all_equal_shapes(sliced(state, params, box), optimizer.init(small))
    for rows, columns in ((100, 150), (200, 250)):
        with pytest.raises(lap_jax.PruningError, match="adafactor"):
            sliced(state, params, kept(rows, columns))


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(lap_jax.PruningError, match=r"shape \(5,\) stands for 'a/bias'"):
        sliced({"a": {"bias": jnp.ones(5)}}, PARAMS, KEPT)
    masks = sliced({"a": {"kernel": LARGE > 2, "bias": True}}, PARAMS, KEPT)
    assert masks["a"]["bias"] is True
    chex.assert_shape(masks["a"]["kernel"], (2, 3))


def test_a_small_leaf_lies_as_the_large_one() -> None:
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    large = jax.device_put(jnp.ones((4, 6)), NamedSharding(mesh, PartitionSpec("x", None)))
    rows = np.array([True, True, False, False])
    small = cut(large, Kept((4, 6), ((rows, np.ones(6, bool)),)))
    assert small.sharding.spec == PartitionSpec("x", None)
    odd = cut(large, Kept((4, 6), ((np.array([True, True, True, False]), np.ones(6, bool)),)))
    assert odd.sharding.spec == PartitionSpec(None, None)

"""Masks as bits and back, against NumPy's packing row by row."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lap_jax import PruningError
from lap_jax.packing import is_packed, packed, unpacked


@pytest.mark.parametrize("shape", [(8,), (3, 16), (2, 3, 5), (4, 1), (3, 0), (0, 9)])
def test_masks_come_back(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.5
    bits = packed(jnp.asarray(mask))
    assert is_packed(bits)
    assert not is_packed(mask)
    assert bits.shape == (*shape[:-1], -(-shape[-1] // 8))
    np.testing.assert_array_equal(bits, np.packbits(mask, axis=-1))
    np.testing.assert_array_equal(unpacked("a", bits, shape), mask)


def test_scalars_and_masks_as_they_are_stay() -> None:
    assert packed(jnp.bool_(True)).dtype == bool
    mask = jnp.ones((2, 3), bool)
    assert unpacked("a", mask, (2, 3)) is mask


@pytest.mark.parametrize("shape", [(), (9,), (2, 17), (3, 16)])
def test_bits_of_another_array_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PruningError, match="the packed mask 'a' has shape"):
        unpacked("a", packed(jnp.ones((2, 16), bool)), shape)


@pytest.mark.parametrize("layout", [P("a", None), P(None, "a"), P("b", "a"), P(("a", "b"), None)])
def test_bits_lie_as_the_mask_does(layout: Any) -> None:
    mesh = jax.make_mesh((2, 4), ("a", "b"))
    sharding = NamedSharding(mesh, layout)
    mask = np.random.default_rng(0).random((8, 32)) < 0.5
    bits = jax.jit(packed)(jax.device_put(mask, sharding))
    assert bits.sharding.is_equivalent_to(sharding, 2)
    np.testing.assert_array_equal(bits, np.packbits(mask, axis=-1))

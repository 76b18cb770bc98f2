"""What multiplies channels: the product of powers, the same to the bit however many there are."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lap_jax import Layer, Norm
from lap_jax.batching import for_each, is_traced
from lap_jax.graph.layers import Factor, Index, Junction
from lap_jax.scoring.gains import Gain, gain, gains
from tests.programs import Counting


def gain_of(part: Layer | Junction, leaves: Mapping[str, Any]) -> jax.Array:
    """What multiplies a part's channels, of leaves by path."""
    factors = tuple(replace(factor, path="") for factor in part.factors)
    how = Gain(part.out_size, factors, isinstance(part, Layer))
    return gain(how, *(leaves[factor.path] for factor in part.factors))


FACTORS = (
    Factor("n/scale"), Factor("n/var", -0.5, 1e-3), Factor("gates", 2.0, -0.5),
    Factor("gates", entries=Index([2, 0, 2])),
)  # fmt: skip


@pytest.mark.parametrize(
    "part", [Layer("a", "a", (2, 3), factors=FACTORS), Junction("sum 0", 3, factors=FACTORS)]
)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_gains_are_the_product_of_powers(part: Layer | Junction, dtype: Any) -> None:
    leaves = {
        "n/scale": jnp.array([1.5, -2.0, 0.0], dtype),
        "n/var": jnp.array([0.25, 4.0, 1.0], dtype),
        "gates": jnp.array([[1.0], [-3.0], [0.5]], dtype),
    }
    scale, var, gates = (np.asarray(leaf, np.float64).ravel() for leaf in leaves.values())
    wanted = abs(scale) / np.sqrt(var + 1e-3) * (gates - 0.5) ** 2 * abs(gates[[2, 0, 2]])
    found = gain_of(part, leaves)
    chex.assert_shape(found, (3,))
    chex.assert_type(found, jnp.float32)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_without_factors_gains_are_ones() -> None:
    chex.assert_trees_all_equal(gain_of(Layer("a", "a", (2, 3)), {}), jnp.ones(3))


@pytest.mark.parametrize("compiled", [False, True])
def test_the_gain_of_a_layer_is_the_quotient_of_eq_8_to_the_bit(compiled: bool) -> None:
    scale, var = jax.random.normal(jax.random.key(0), (2, 1001))
    node = Layer("a", "a", (2, 1001), factors=Norm("n", 1e-3).factors)
    found, wanted = (
        lambda scale, var: gain_of(node, {"n/scale": scale, "n/var": var}),
        lambda scale, var: jnp.abs(scale) / jnp.sqrt(var + 1e-3),
    )
    if compiled:
        found, wanted = jax.jit(found), jax.jit(wanted)
    chex.assert_trees_all_equal(found(scale, var**2), wanted(scale, var**2))


def test_gains_in_the_hosts_memory_are_those_of_a_program_for_each(
    count_compilations: Counting,
) -> None:
    rng = np.random.default_rng(0)
    factors = tuple(replace(factor, path="") for factor in Norm("n", 1e-3).factors)
    entries = Index([0, 2, 2, 1])
    calls: dict[str, Any] = {
        str(size): (
            Gain(size, factors, of_layer),
            tuple(jnp.asarray(x) for x in rng.random((2, size), np.float32)),
        )
        for size, of_layer in ((1, True), (7, True), (31, True), (130, True), (131, False))
    }
    calls["one for all"] = Gain(5, (Factor("", -0.5, 1e-5),), False), (jnp.full(1, 0.3),)
    calls["entries"] = (
        Gain(4, (Factor("", entries=entries),), True),
        (jnp.asarray([[-1.0], [2], [3]]),),
    )
    assert not is_traced(calls)  # which compiles something, too
    with count_compilations() as compiled:
        found = gains(calls)
    assert len(compiled) <= 4  # one for each kind
    chex.assert_trees_all_equal(found, for_each(gain, calls))
    assert all(isinstance(each, jax.Array) for each in found.values())

"""The table of primitives: every family is in it, and what is not known is a barrier."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp

from lap_jax import trace
from lap_jax.tracing import arithmetic, contracting, moving, primitives, reducing


def test_a_primitive_is_of_one_family() -> None:
    """But for those that move channels, or take rows of a layer by an index from the data."""
    families = [arithmetic.ARITHMETIC, moving.MOVEMENTS, reducing.REDUCING, contracting.CONTRACTING]
    for one, other in itertools.combinations(families, 2):
        assert set(one) & set(other) <= {"gather", "dynamic_slice"}
    assert set(primitives.RULES) == set().union(*families)


def test_a_primitive_without_a_rule_is_a_barrier_that_is_named() -> None:
    def model(p: Any, x: jax.Array) -> jax.Array:
        y = x @ p["a"]
        return jnp.fft.fft(y).real @ p["b"]

    graph = trace(model, {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}, jnp.ones((1, 3)))
    assert [barrier.primitive for barrier in graph.barriers] == ["fft"]
    assert "not known to keep channels apart" in graph.barriers[0].why


def test_what_is_made_of_parameters_alone_is_no_barrier() -> None:
    def model(p: Any, x: jax.Array) -> jax.Array:
        return x @ p["a"] + jnp.sort(jnp.cumsum(p["bias"]))

    graph = trace(model, {"a": jnp.ones((3, 4)), "bias": jnp.ones(4)}, jnp.ones((1, 3)))
    assert graph.barriers == ()

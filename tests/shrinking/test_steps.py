"""What a program is as a list, and which of its programs go entry by entry."""

import jax
import jax.numpy as jnp

from lap_jax.shrinking.steps import is_entrywise
from tests.shrinking.held import normal

X, W = normal(2, 3), normal(3, 3)


def test_entry_by_entry() -> None:
    assert is_entrywise(jax.make_jaxpr(lambda x: jnp.where(x > 0, x, jnp.zeros_like(x)))(X))
    assert not is_entrywise(jax.make_jaxpr(lambda x: x - x.mean())(X))
    assert not is_entrywise(jax.make_jaxpr(lambda x, y: x @ y)(X, W))
    assert not is_entrywise(jax.make_jaxpr(lambda x: jnp.zeros((3, 2)) + x.T)(X))

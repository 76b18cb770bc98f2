"""What a model is called with: options, their arrays, other batches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lap_jax
from lap_jax.shrinking.cutter import Call
from tests.shrinking.held import ALL, normal


def test_arrays_among_options_are_traced_and_the_rest_tells_programs_apart() -> None:
    key = jax.random.key(0)
    one = Call.of((jnp.ones(2),), {"train": True, "rngs": {"dropout": key}})
    other = Call.of((jnp.zeros(2),), {"train": True, "rngs": {"dropout": jax.random.key(1)}})
    assert len(one.arrays) == 2
    assert one.key == other.key
    assert Call.of((jnp.ones(2),), {"train": False, "rngs": {"dropout": key}}).key != one.key
    assert Call.of((jnp.ones(3),), {"train": True, "rngs": {"dropout": key}}).key != one.key
    assert len(Call.of((3.0,), {"scale": 3.0}).arrays) == 1


def test_options_may_change_at_every_call() -> None:
    params = {"a": normal(4, 5, zero=((ALL, 1),)), "b": normal(5, 2)}

    def model(p: Any, x: jax.Array, kind: Any = "sin", noise: Any = None) -> jax.Array:
        y = x @ p["a"]
        y = jnp.sin(y) if kind == "sin" else jnp.tanh(y) if kind == "tanh" else kind(y)
        return (y if noise is None else y * noise) @ p["b"]

    x, noise = normal(3, 4), normal(5, seed=9)
    small = lap_jax.shrink(model, params, None, x)
    for options in ({}, {"kind": "tanh"}, {"kind": jax.nn.relu}):
        found = jax.jit(lambda v, x, o=options: small.apply(v, x, **o))(small.variables, x)
        np.testing.assert_allclose(found, model(params, x, **options), rtol=1e-5, atol=1e-6)
    noisy = small.apply(small.variables, x, noise=noise)
    np.testing.assert_allclose(noisy, model(params, x, noise=noise), rtol=1e-5, atol=1e-6)

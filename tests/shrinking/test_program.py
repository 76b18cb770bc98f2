"""Small programs refuse what they were not cut for, and return what is asked."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lap_jax
from tests.shrinking.held import ALL, held, normal


def test_inputs_that_need_more_parameters_are_refused() -> None:
    """Positions beyond the example's are gone."""
    params = {"positions": normal(8, 4), "a": normal(4, 3)}

    def model(p: Any, x: jax.Array) -> jax.Array:
        return jnp.sin(x + p["positions"][: x.shape[1]]) @ p["a"]

    small = held(model, params, normal(2, 5, 4), {"positions": (5, 4), "a": (4, 3)})
    shorter = normal(2, 3, 4)
    np.testing.assert_allclose(
        small.apply(small.variables, shorter), model(params, shorter), rtol=1e-6
    )
    with pytest.raises(lap_jax.PruningError, match="inputs of other shapes"):
        small.apply(small.variables, normal(2, 6, 4))


def test_outputs_come_back_whole() -> None:
    """Constants, parameters and inputs that are returned as they are, and a tree of them."""
    params = {"a": normal(4, 3, zero=((ALL, 1),)), "bias": normal(3), "free": normal(2)}

    def model(p: Any, x: jax.Array) -> Any:
        y = x @ p["a"]
        return {"y": y, "z": (y + p["bias"], p["free"], x), "one": jnp.ones(2), "all": y * 0}

    held(model, params, normal(2, 4), {"a": (4, 2), "bias": (2,), "free": (2,)})


def test_everything_may_be_pruned() -> None:
    params = {"a": jnp.zeros((4, 3)), "b": normal(3, 2), "bias": normal(2)}
    small = held(
        lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"] + p["bias"], params, normal(2, 4)
    )  # fmt: skip
    assert small.parameters == (20, 0)
    assert small.work.after == 0

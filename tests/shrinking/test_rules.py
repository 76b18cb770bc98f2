"""The rule for what has none, and half precision computed in float32."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lap_jax
from lap_jax.shrinking.rules import computed, is_half
from tests.shrinking.held import ALL, held, normal


def test_what_has_no_rule_is_computed_at_full_size_and_listed() -> None:
    params = {"a": normal(4, 5, zero=((ALL, 1),)), "h": normal(5, 5), "b": normal(5, 2, zero=(3,))}

    def model(p: Any, x: jax.Array) -> jax.Array:
        def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
            return jnp.tanh(h @ p["h"] + x), None

        y = x @ p["a"]
        return lax.scan(step, jnp.zeros_like(y[:, 0]), y.swapaxes(0, 1))[0] @ p["b"]

    small = held(
        model, params, normal(2, 3, 4), {"a": (4, 4), "h": (5, 5), "b": (4, 2)}, full=1
    )  # fmt: skip
    ((name, line),) = small.at_full_size
    assert name == "scan"
    assert "test_rules.py" in line
    assert "at full size: scan at" in str(small)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_compared_in_float32(dtype: Any) -> None:
    params = {"a": normal(4, 5, zero=((ALL, 1),)), "b": normal(5, 2)}

    def model(p: Any, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(x.astype(dtype) @ p["a"].astype(dtype))
        return (y.astype(jnp.float32) / 3).astype(dtype) @ p["b"].astype(dtype)

    x = normal(8, 4)
    small = lap_jax.shrink(model, params, None, x)
    assert small.difference < 1e-6
    found = small.apply(small.variables, x)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(float), model(params, x).astype(float), rtol=0.05)


def test_widened() -> None:
    (eqn,) = jax.make_jaxpr(lambda x: x.astype(jnp.bfloat16))(normal(2)).eqns
    assert computed(eqn, [normal(2)], True)[0].dtype == jnp.float32
    assert computed(eqn, [normal(2)], False)[0].dtype == jnp.bfloat16
    assert [is_half(d) for d in (jnp.bfloat16, jnp.float32, jnp.int8, None)] == [
        True, False, False, False,
    ]  # fmt: skip

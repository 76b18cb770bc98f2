"""What works along some axes: reductions, norms, sorts, lookups."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.shrinking.held import ALL, held, normal

X = normal(3, 4, 4)
DEAD = ((ALL, [1, 4]),)


ALONG: dict[str, Callable[[jax.Array], jax.Array]] = {
    "sum": lambda y: y.sum(1),
    "mean": lambda y: y.mean(1),
    "largest": lambda y: y.max(1),
    "product": lambda y: y.prod(1),
    "any": lambda y: (y > 0).any(1) * 1.0,
    "where": lambda y: y.argmax(1) * 1.0,
    "cumulative": lambda y: jnp.cumsum(y, 1)[:, 2],
    "largest so far": lambda y: lax.cummax(y, 1)[:, 2],
    "sorted": lambda y: jnp.sort(y, 1)[:, 0],
    "window": lambda y: lax.reduce_window(y, 0.0, lax.add, (1, 2, 1), (1, 1, 1), "SAME")[:, 0],
    "softmax": lambda y: (jax.nn.softmax(y, 1) * y).sum(1),
}


@pytest.mark.parametrize("name", ALONG)
def test_dead_channels_stay_dead(name: str) -> None:
    params = {"a": normal(4, 6, zero=DEAD), "b": normal(6, 2)}

    def model(p: Any, x: jax.Array) -> jax.Array:
        return ALONG[name](x @ p["a"]) @ p["b"]

    left = 6 if name == "where" else 4  # which of several noughts is the largest is not asked
    held(model, params, X, {"a": (4, 4), "b": (left, 2)})


@pytest.mark.parametrize("fast", [True, False])
def test_a_norm_over_channels_of_which_some_are_nought(fast: bool) -> None:
    """Noughts add nothing to E[x] and E[x^2]; to E[(x - mean)^2] they do, and are computed then."""
    params = {"a": normal(4, 6, zero=DEAD), "scale": normal(6, zero=([1, 4],)), "b": normal(6, 2)}

    def model(p: Any, x: jax.Array) -> jax.Array:
        y = x @ p["a"]
        mean = y.mean(-1, keepdims=True)
        fast_one = (y**2).mean(-1, keepdims=True) - mean**2
        variance = fast_one if fast else ((y - mean) ** 2).mean(-1, keepdims=True)
        return ((y - mean) * lax.rsqrt(variance + 1e-3) * p["scale"]) @ p["b"]

    held(model, params, X, {"a": (4, 4), "scale": (4,), "b": (4, 2)})


@pytest.mark.parametrize("kind", ["embedding", "slice", "update", "top"])
def test_what_data_choose(kind: str) -> None:
    params = {
        "e": normal(5, 6, zero=DEAD),
        "a": normal(6, 3, zero=((ALL, 1),)),
        "b": normal(3, 2),
    }

    def model(p: Any, ids: jax.Array) -> jax.Array:
        y = p["e"][ids] @ p["a"]
        if kind == "slice":
            y = lax.dynamic_slice_in_dim(y, ids[0, 0], 2, 1)
        elif kind == "update":
            y = lax.dynamic_update_slice_in_dim(y, 2 * y[:, :1], ids[0, 0], 1)
        elif kind == "top":
            y = lax.top_k(y.swapaxes(1, 2), 2)[0].swapaxes(1, 2)
        return y @ p["b"]

    ids = jnp.array([[0, 3, 4], [2, 1, 1]])
    left = 3 if kind == "top" else 2
    held(model, params, ids, {"e": (5, 4), "a": (4, 2), "b": (left, 2)})

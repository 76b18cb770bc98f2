"""Entry by entry: constants are computed, derivatives stay what they are."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lap_jax
from lap_jax.shrinking.listing import listed
from lap_jax.shrinking.steps import fits
from tests.shrinking.held import ALL, held, normal

X = normal(3, 4)
OUT = {"a": (4, 3), "b": (3, 2)}


def test_a_neuron_without_weights_is_a_constant_and_goes_into_a_bias() -> None:
    """gelu(b) of a neuron without incoming weights is a number, and so is what is made of it."""
    params = {
        "a": normal(4, 5, zero=((ALL, [1, 3]),)),
        "bias": normal(5),
        "b": normal(5, 2),
        "c": normal(2),
    }

    def model(p: Any, x: jax.Array) -> jax.Array:
        return jax.nn.gelu(x @ p["a"] + p["bias"]) @ p["b"] + p["c"]

    held(model, params, X, {"a": (4, 3), "bias": (3,), "b": (3, 2), "c": (2,)})


@pytest.mark.parametrize("kind", ["gate", "choice", "pair"])
def test_nought_times_anything_is_nought(kind: str) -> None:
    params = {
        "a": normal(4, 5, zero=((ALL, [0, 2]),)),
        "gate": normal(4, 5, seed=1, zero=((ALL, 4),)),
        "b": normal(5, 2),
    }

    def model(p: Any, x: jax.Array) -> jax.Array:
        y, gate = x @ p["a"], x @ p["gate"]
        if kind == "choice":  # one or the other, by the sign of a third: both are needed
            y = jnp.where(gate > 0, y * gate, jnp.zeros_like(y))
        else:
            y = y / (1 + jnp.exp(gate)) if kind == "pair" else jax.nn.silu(gate) * y
        return y @ p["b"]

    left = 3 if kind == "pair" else 2  # of the pair, one is divided by 1 + exp(0)
    held(model, params, X, {"a": (4, left), "gate": (4, 2), "b": (left, 2)})


def test_a_channel_that_a_scale_takes_to_nought_is_not_computed() -> None:
    params = {"a": normal(4, 5), "scale": normal(5, zero=([1, 2],)), "b": normal(5, 2)}

    def model(p: Any, x: jax.Array) -> jax.Array:
        return (jnp.tanh(x @ p["a"]) * p["scale"]) @ p["b"]

    held(model, params, X, {"a": (4, 3), "scale": (3,), "b": (3, 2)})


@jax.custom_vjp
def straight(x: jax.Array) -> jax.Array:
    """Rounded, with the derivative of what goes in."""
    return jnp.round(x)


straight.defvjp(lambda x: (straight(x), None), lambda _, c: (2 * c,))


@pytest.mark.parametrize("function", [jax.nn.relu, jax.nn.relu6, straight])
def test_derivatives_of_their_own_stay(function: Any) -> None:
    """At nought relu has the derivative 0, which max(x, 0) has not."""
    params = {"a": normal(4, 5, zero=((ALL, 1), 0)), "b": normal(5, 2, zero=(3,))}
    masks = jax.tree.map(lambda leaf: leaf != 0, params)

    def model(p: Any, x: jax.Array) -> jax.Array:
        return function(x @ p["a"]) @ p["b"]

    x = X.at[0, 1:].set(0)  # an input of which every neuron is at nought
    small = held(model, params, x, {"a": (3, 3), "b": (3, 2)}, masks, fold=False)
    grads = [
        jax.grad(lambda p, f=f: (f(p, x) ** 2).sum())(p)
        for f, p in ((model, params), (small.apply, small.variables))
    ]
    chex.assert_trees_all_close(small.slice(grads[0]), grads[1], rtol=1e-6)


def test_what_goes_entry_by_entry() -> None:
    def names(function: Any) -> dict[str, bool]:
        listing = listed(jax.make_jaxpr(function)(X), 0, False)
        return {step.name: fits(step) for step in listing.steps}

    assert names(jax.nn.relu) == {"custom_jvp_call": True}
    assert not any(names(lambda x: jnp.linalg.qr(x)[0]).values())
    assert names(lambda x: jnp.sin(x) + 1) == {"sin": True, "add": True}


def test_random_keys_pass() -> None:
    def model(p: Any, x: jax.Array) -> jax.Array:
        return (x + jax.random.normal(jax.random.key(0), x.shape)) @ p["a"]

    small = held_alone(model, {"a": normal(4, 2, zero=([0, 3],))})
    assert small.variables["a"].shape == (2, 2)


def held_alone(model: Any, params: Any) -> Any:
    small = lap_jax.shrink(model, params, None, X)
    np.testing.assert_allclose(small.apply(small.variables, X), model(params, X), rtol=1e-6)
    return small

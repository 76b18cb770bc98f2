"""Programs as lists of steps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lap_jax.shrinking.listing import listed
from lap_jax.shrinking.steps import Leaf, Listing
from tests.shrinking.held import normal


def names(function: Any, *arguments: Any, leaves: int = 1, inline: bool = True) -> list[str]:
    return [step.name for step in listing(function, *arguments, leaves=leaves, inline=inline).steps]


def listing(function: Any, *arguments: Any, leaves: int = 1, inline: bool = True) -> Listing:
    return listed(jax.make_jaxpr(function)(*arguments), leaves, inline)


X, W = normal(2, 3), normal(3, 3)


def test_calls_are_opened_and_constants_computed() -> None:
    @jax.jit
    def inner(w: jax.Array, x: jax.Array) -> jax.Array:
        return jax.checkpoint(jnp.sin)(x @ w) + jnp.arange(3.0) * 2

    found = listing(inner, W, X)
    assert [step.name for step in found.steps] == ["dot_general", "sin", "add"]
    added = found.constants[found.steps[-1].ins[1]]
    np.testing.assert_array_equal(np.broadcast_to(added, (2, 3)), [[0, 2, 4]] * 2)


def test_movements_are_a_step_each_and_chosen_axis_by_axis() -> None:
    assert names(lambda x: x[1:, ::2].T.reshape(2), X, leaves=0) == [
        "take", "take", "transpose", "reshape",
    ]  # fmt: skip
    assert names(lambda x: jnp.pad(x, 1, constant_values=3), X, leaves=0) == ["fill", "fill"]
    assert names(lambda x: jnp.concatenate([x, x]), X, leaves=0) == ["concatenate"]


def test_derivatives_of_their_own_are_opened_if_asked() -> None:
    def model(w: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ w)

    assert names(model, W, X, inline=False) == ["dot_general", "custom_jvp_call"]
    assert names(model, W, X) == ["dot_general", "max"]
    softmax = names(lambda x: jax.nn.softmax(x), X, leaves=0, inline=False)
    assert "reduce_max" in softmax  # of several entries: its derivative is that of its parts


def test_stacked_layers_are_read_one_by_one_and_time_is_not() -> None:
    stack = normal(3, 3, 3)

    def layers(w: jax.Array, x: jax.Array) -> jax.Array:
        return lax.scan(lambda x, w: (jnp.sin(x @ w), None), x, w)[0]

    found = listing(layers, stack, X)
    assert [step.name for step in found.steps] == ["dot_general", "sin"] * 3
    assert set(found.leaves.values()) == {Leaf(0), Leaf(0, 0), Leaf(0, 1), Leaf(0, 2)}

    def counted(w: jax.Array, x: jax.Array) -> jax.Array:
        return lax.fori_loop(0, 3, lambda i, x: x @ w[i], x)

    assert names(counted, stack, X).count("dot_general") == 3

    def time(w: jax.Array, x: jax.Array) -> jax.Array:
        return lax.scan(lambda h, x: (jnp.sin(h @ w + x), None), x[0], x)[0]

    assert names(time, W, X)[-1:] == ["scan"] or "scan" in names(time, W, X)


def test_a_branch_that_a_constant_says_is_taken() -> None:
    def model(w: Any, x: jax.Array) -> jax.Array:
        return lax.cond(jnp.array(True), jnp.sin, jnp.cos, x @ w)

    assert names(model, W, X) == ["dot_general", "sin"]
    assert names(lambda w, x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x), W, X)[-1] == "cond"

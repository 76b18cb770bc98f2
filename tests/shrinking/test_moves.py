"""Movements: slices keep their places through them, and only these are moved."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.shrinking.held import ALL, held, normal

HALF = ((ALL, [0, 1, 6, 7]),)  # of eight channels; the second and third pairs stay


def kept(x: jax.Array) -> jax.Array:
    return x


# How channels move, and how many rows are left of what reads them: where dead ones are no box on
# the way, as in a shuffle of half of each group, all.
MOVES: dict[str, tuple[Callable[[jax.Array], jax.Array], int]] = {
    "as it is": (kept, 4),
    "turned over": (lambda y: y[:, ::-1], 4),
    "every second": (lambda y: jnp.concatenate([y[:, ::2], y[:, 1::2]], 1), 4),
    "transposed": (lambda y: y.T.reshape(2, 4, -1).transpose(2, 1, 0).reshape(y.shape), 8),
    "split and joined": (lambda y: jnp.concatenate(jnp.split(y, 2, 1)[::-1], 1), 4),
    "in pairs": (lambda y: jax.nn.relu(y.reshape(-1, 4, 2)).reshape(y.shape), 4),
    "in fours": (lambda y: y.reshape(-1, 2, 4).swapaxes(1, 2).reshape(y.shape), 8),
    "padded": (lambda y: jnp.pad(y, ((0, 0), (1, 1)))[:, 1:-1], 4),
    "padded by a number": (lambda y: jnp.pad(y, ((0, 0), (1, 0)), constant_values=2)[:, 1:], 4),
    "rolled": (lambda y: jnp.roll(y, 3, 1), 4),
    "repeated": (lambda y: jnp.repeat(y, 2, 1)[:, 1::2], 4),
    "beside a new axis": (lambda y: (y[:, None, :] + jnp.zeros((1, 3, 1))).sum(1) / 3, 4),
    "chosen": (lambda y: y[:, jnp.array([3, 2, 5, 4, 0, 0, 0, 0])], 4),
}


@pytest.mark.parametrize("name", MOVES)
def test_channels_are_followed(name: str) -> None:
    move, left = MOVES[name]
    params = {"a": normal(3, 8, zero=HALF), "b": normal(8, 2)}

    def model(p: Any, x: jax.Array) -> jax.Array:
        return move(jnp.sin(x @ p["a"])) @ p["b"]

    held(model, params, normal(2, 3), {"a": (3, 4), "b": (left, 2)})


def test_a_ragged_set_is_computed_as_the_least_box() -> None:
    """Of heads (2, 4) with channels 0, 1 and 1, 2 alive: three columns of both."""
    params = {"a": normal(3, 8, zero=((ALL, [2, 3, 4, 7]),)), "b": normal(8, 2)}

    def model(p: Any, x: jax.Array) -> jax.Array:
        y = jnp.sin(x @ p["a"]).reshape(-1, 2, 4)
        return jnp.einsum("bhd,bgd->bhd", y, y).reshape(-1, 8) @ p["b"]

    small = held(model, params, normal(2, 3))
    assert small.variables["a"].shape == (3, 4)
    assert small.variables["b"].shape[0] in (4, 6)


def test_constants_between_channels() -> None:
    """A constant put beside channels is no channel: it goes into a bias."""
    params = {"a": normal(3, 4, zero=((ALL, 1),)), "b": normal(6, 2)}

    def model(p: Any, x: jax.Array) -> jax.Array:
        y = jnp.concatenate([x @ p["a"], jnp.full((len(x), 2), 3.0)], 1)
        return y @ p["b"]

    held(model, params, normal(2, 3), {"a": (3, 3), "b": (3, 2)})

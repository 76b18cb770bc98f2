"""Small networks that the command line is given as ``tests.cli.networks:function``."""

from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

WIDTHS = (6, 8, 3)


class Dense(nn.Module):
    """Two layers and a batch norm, so that there are statistics."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(WIDTHS[1])(x))
        return nn.Dense(WIDTHS[2])(nn.relu(x))


INPUTS = jnp.linspace(-1, 1, 2 * WIDTHS[0]).reshape(2, WIDTHS[0])


def linen() -> Any:
    return Dense(), INPUTS


def linen_with_options() -> Any:
    return {"model": Dense(), "inputs": (INPUTS,), "options": {"train": False}}


class Nnx(nnx.Module):
    """The same without a norm, and a random key that no checkpoint needs to hold."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(*WIDTHS[:2], rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(*WIDTHS[1:], rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.dropout(nnx.relu(self.first(x))))


def of_nnx() -> Any:
    model = Nnx(nnx.Rngs(0))
    model.eval()
    return model, INPUTS


def of_equinox() -> Any:
    return eqx.nn.MLP(WIDTHS[0], WIDTHS[2], WIDTHS[1], 1, key=jax.random.key(0)), INPUTS[0]


def plain(params: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ params["a"]) @ params["b"]


def function() -> Any:
    shapes = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in (("a", WIDTHS[:2]), ("b", WIDTHS[1:]))
    }
    return {"model": plain, "inputs": INPUTS, "variables": shapes}


def function_alone() -> Any:
    return plain, INPUTS


def scanned(params: Any, x: jax.Array) -> jax.Array:
    """A stack of two layers of each a hidden layer."""

    def block(x: jax.Array, layer: Any) -> tuple[jax.Array, None]:
        return x + jax.nn.relu(x @ layer["in"]) @ layer["out"], None

    return jax.lax.scan(block, x, params)[0]


def of_a_scan() -> Any:
    width, hidden = WIDTHS[:2]
    shapes = {"in": (2, width, hidden), "out": (2, hidden, width)}
    variables = {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in shapes.items()}
    return {"model": scanned, "inputs": INPUTS, "variables": variables}


def broken() -> Any:
    raise ValueError("no such\nnetwork")


def nothing() -> Any:
    return None


def misspelt() -> Any:
    return {"model": Dense(), "inputs": INPUTS, "option": {}}


def of_other_inputs() -> Any:
    return Dense(), "no array"


def variables(seed: int = 0) -> Any:
    return Dense().init(jax.random.key(seed), INPUTS)

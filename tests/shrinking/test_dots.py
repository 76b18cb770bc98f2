"""Dot products: any axes, of parameters and of activations, against each other."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lap_jax
from tests.shrinking.held import ALL, held, normal

X = normal(3, 4)


@given(seed=st.integers(0, 2**16), density=st.floats(0.05, 0.6))
def test_what_stays_of_dense_layers_is_what_paths_reach(seed: int, density: float) -> None:
    """Without biases and constants a neuron stays if a path of weights goes through it."""
    random = np.random.default_rng(seed)
    sizes = (4, 6, 5, 3)
    masks = [random.random(pair) < density for pair in itertools.pairwise(sizes)]
    params = {f"w{i}": jnp.asarray(mask, jnp.float32) for i, mask in enumerate(masks)}

    def model(p: Any, x: jax.Array) -> jax.Array:
        return jnp.sin(jnp.sin(x @ p["w0"]) @ p["w1"]) @ p["w2"]

    into, out = [np.ones(4, bool)], [np.ones(3, bool)]
    for mask in masks:
        into.append(np.asarray((into[-1][:, None] & mask).any(0)))
    for mask in reversed(masks):
        out.insert(0, np.asarray((mask & out[0]).any(1)))
    alive = [int((a & b).sum()) for a, b in zip(into, out, strict=True)]
    with jax.disable_jit():
        small = lap_jax.shrink(model, params, None, X)
    if min(alive):
        expected = {f"w{i}": (alive[i], alive[i + 1]) for i in range(3)}
        assert {path: each.small for path, each in small.kept.items()} == expected


def test_heads_and_their_channels() -> None:
    """A head that nobody reads goes, with its keys and queries; the softmax is over positions."""
    params = {
        "q": normal(4, 3, 2, seed=1),
        "k": normal(4, 3, 2, seed=2, zero=((ALL, 2, 0),)),
        "v": normal(4, 3, 5, seed=3),
        "o": normal(3, 5, 4, zero=(1, (0, [0, 1]), (2, [0, 1]))),
    }

    def model(p: Any, x: jax.Array) -> jax.Array:
        q, k, v = (jnp.einsum("btd,dhk->bthk", x, p[name]) for name in "qkv")
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*x.shape[:2], 15) @ (
            p["o"].reshape(15, 4)
        )

    held(
        model, params, normal(2, 6, 4),
        {"q": (4, 2, 2), "k": (4, 2, 2), "v": (4, 2, 3), "o": (2, 3, 4)},
    )  # fmt: skip


def test_experts_side_by_side() -> None:
    """A batch axis of parameters: what no expert has goes from all."""
    params = {
        "up": normal(2, 4, 5, zero=((ALL, ALL, 3), (0, ALL, 1))),
        "down": normal(2, 5, 3, zero=((1, 4),)),
    }

    def model(p: Any, x: jax.Array) -> jax.Array:
        y = jnp.sin(jnp.einsum("bd,edk->ebk", x, p["up"]))
        return jnp.einsum("ebk,ekd->bd", y, p["down"])

    held(model, params, X, {"up": (2, 4, 4), "down": (2, 4, 3)})


@pytest.mark.parametrize("fold", [True, False])
def test_products_of_parameters(fold: bool) -> None:
    """Low-rank kernels, of which only the needed rows, columns and ranks are left."""
    params = {
        "u": normal(4, 3, zero=((ALL, 1),)),
        "v": normal(3, 6, zero=((ALL, 5), 1)),
        "b": normal(6, 2, zero=(0,)),
    }
    masks = jax.tree.map(lambda leaf: leaf != 0, params)

    def model(p: Any, x: jax.Array) -> jax.Array:
        return jnp.sin(x @ (p["u"] @ p["v"])) @ p["b"]

    small = held(model, params, X, masks=masks, fold=fold)
    assert small.variables["u"].shape == (4, 2)
    assert small.variables["v"].shape == (2, 4)
    assert small.work.after < small.work.before


def test_tied_weights_stay_where_one_reading_needs_them() -> None:
    params = {"e": normal(6, 4, zero=(3, (ALL, 1))), "w": normal(4, 4, zero=(1, (ALL, 1)))}

    def model(p: Any, x: jax.Array) -> jax.Array:
        return jnp.sin(p["e"][x] @ p["w"]) @ p["e"].T

    held(model, params, jnp.array([1, 2, 5]), {"e": (6, 3), "w": (3, 3)})

"""What is made of parameters before they meet data: casts, products of powers, and the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import lap_jax
from lap_jax.graph.layers import Factor
from lap_jax.tracing.builder import GraphBuilder
from lap_jax.tracing.interpreter import read
from lap_jax.tracing.primitives import graph_interpreter
from lap_jax.tracing.values import FromParams, Power
from lap_jax.tracing.views import whole
from tests.tracing.small import kernels, pairs, w


def made(function: Callable[..., jax.Array], *shapes: tuple[int, ...]) -> FromParams:
    """What is known of the result of a function of leaves a, b, ..."""
    program = jax.make_jaxpr(function)(*map(jnp.zeros, shapes))
    leaves = [
        FromParams(shape, (Power(whole(name, shape)),))
        for name, shape in zip("abc", shapes, strict=False)
    ]
    (found,) = read(graph_interpreter(GraphBuilder({}, frozenset())), program, leaves)
    assert isinstance(found, FromParams)
    return found


A, B = whole("a", (4,)), whole("b", (4,))
PRODUCTS: dict[str, tuple[Callable[..., jax.Array], list[Power], float]] = {
    "cast": (lambda a, b: (-a).astype(jnp.bfloat16), [Power(A)], 1.0),
    "stopped": (lambda a, b: lax.stop_gradient(a), [Power(A)], 1.0),
    "product": (lambda a, b: 3.0 * a * b, [Power(A), Power(B)], 3.0),
    "quotient": (lambda a, b: a / b / 2, [Power(A), Power(B, -1.0)], 0.5),
    "variance": (lambda a, b: a * lax.rsqrt(b + 1e-5), [Power(A), Power(B, -0.5, 1e-5)], 1.0),
    "root": (lambda a, b: jnp.sqrt(a), [Power(A, 0.5)], 1.0),
    "powers": (lambda a, b: jnp.square(2 * a) * b**3, [Power(A, 2.0), Power(B, 3.0)], 4.0),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_products_of_powers_are_known(case: str) -> None:
    function, powers, scale = PRODUCTS[case]
    found = made(function, (4,), (4,))
    assert found.powers == tuple(powers)
    assert found.scale == pytest.approx(scale)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a + b,
        lambda a, b: jnp.exp(a) * b,
        lambda a, b: a.astype(int) + b.astype(int),
        lambda a, b: jnp.where(a > 0, a, b),
        lambda a, b: jnp.cumsum(a) * b,
        lambda a, b: jnp.concatenate([a, b]),
        lambda a, b: lax.cond(a[0] > 0, lambda: a, lambda: b),
    ],
    ids=["sum", "function", "numbers", "choice", "along", "joined", "branch"],
)
def test_of_anything_else_the_leaves_are_known(function: Callable[..., jax.Array]) -> None:
    found = made(function, (4,), (4,))
    assert found.powers is None
    assert found.leaves == {"a", "b"}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_kernels_are_found_where_the_model_computes_in_another_dtype(dtype: Any) -> None:
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)

    def network(dtype: Any) -> nn.Module:
        return nn.Sequential(
            [
                nn.Conv(4, (3, 3), dtype=dtype),
                nn.BatchNorm(use_running_average=True, dtype=dtype),
                nn.relu,
                nn.Conv(4, (3, 3), dtype=dtype),
            ]
        )

    variables = jax.eval_shape(network(None).init, jax.random.key(0), x)
    graph, wanted = (lap_jax.trace(network(each), variables, x) for each in (dtype, None))
    assert graph == wanted
    assert graph.barriers == ()
    assert len(graph.layers) == 2


KEPT: dict[str, Callable[[jax.Array], jax.Array]] = {
    "cast": lambda k: k.astype(jnp.bfloat16).astype(jnp.float32),
    "negated": lambda k: -k,
    "stopped": lax.stop_gradient,
    "barred": lambda k: lax.optimization_barrier((k, k))[0],
    "rounded": lambda k: lax.reduce_precision(k, 5, 10),
    "copied": jnp.copy,
    "put": lambda k: jax.device_put(k, jax.devices()[0]),
    "laid out": lambda k: lax.with_sharding_constraint(
        k, jax.sharding.SingleDeviceSharding(jax.devices()[0])
    ),
    "cast by jit": jax.jit(lambda k: k.astype(jnp.float16)),
    "named": lambda k: checkpoint_name(k, "kernel"),
}


@pytest.mark.parametrize("case", KEPT)
def test_a_kernel_stays_one_through_casts_and_copies(case: str) -> None:
    params, kept = kernels((5, 4), (4, 2)), KEPT[case]

    def model(kept: Callable[[jax.Array], jax.Array]) -> lap_jax.Graph:
        def apply(p: Any, x: jax.Array) -> jax.Array:
            k = kept(w(p, "a"))
            return jax.nn.relu(x.astype(k.dtype) @ k) @ kept(w(p, "b"))

        return lap_jax.trace(apply, params, jnp.ones((3, 5)))

    assert model(kept) == model(lambda k: k)


def test_an_nnx_module_that_computes_in_bfloat16_has_the_graph_of_float32() -> None:
    class Model(nnx.Module):
        def __init__(self, dtype: Any):
            own: dict[str, Any] = {"dtype": dtype, "rngs": nnx.Rngs(0)}
            self.tokens, self.norm = nnx.Embed(7, 4, **own), nnx.LayerNorm(4, **own)
            self.up, self.conv = nnx.Linear(4, 6, **own), nnx.Conv(6, 3, (3,), **own)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.conv(nnx.relu(self.up(self.norm(self.tokens(x)))))

    tokens = jnp.zeros((1, 5), int)
    wanted = lap_jax.trace(Model(None), tokens)
    assert wanted.names == ("tokens", "up", "conv")
    assert lap_jax.trace(Model(jnp.bfloat16), tokens) == wanted


def test_a_part_of_a_leaf_by_a_constant_index_is_a_layer() -> None:
    params = kernels((3, 5, 4), (4, 2))
    graph = lap_jax.trace(
        lambda p, x: x @ jnp.take(w(p, "a"), 1, axis=0) @ w(p, "b"), params, jnp.ones((3, 5))
    )
    assert graph.names == ("a[1]", "b")
    assert pairs(graph, "a[1]", "b") == {(i, i) for i in range(4)}


def test_kernels_that_are_made_of_parameters_in_another_way_are_told() -> None:
    params = kernels((5, 4), (4, 2), (5, 4))
    graph = lap_jax.trace(
        lambda p, x: x @ (w(p, "a") * w(p, "c")) @ w(p, "b"), params, jnp.ones((3, 5))
    )
    assert graph.names == ("b",)
    (barrier,) = graph.barriers
    assert "its kernel is not just one parameter" in barrier.why
    assert barrier.after == ("a", "c", "b")


def test_parameters_that_multiply_channels_are_factors() -> None:
    params = {**kernels((5, 4), (4, 2)), "c": {"scale": jnp.ones(4)}}
    graph = lap_jax.trace(
        lambda p, x: x @ w(p, "a") * p["c"]["scale"] ** 2 @ w(p, "b"), params, jnp.ones((3, 5))
    )
    found = [factor for part in graph.parts.values() for factor in part.factors]
    assert found == [Factor("c/scale", 2.0)]

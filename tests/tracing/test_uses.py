"""How often weights are used: counted by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import lap_jax
from lap_jax import PruningError


def of(*shape: int) -> dict[str, jax.Array]:
    return {"kernel": jnp.ones(shape)}


def test_layers_that_share_a_contraction_are_told_apart_by_what_they_read() -> None:
    params = {"q": of(4, 3), "k": of(4, 5), "out": of(8, 2)}

    def model(params: Any, x: jax.Array) -> jax.Array:
        both = jnp.concatenate([params["q"]["kernel"], params["k"]["kernel"]], 1)
        return (x @ both).sum(1) @ params["out"]["kernel"]

    x = jax.ShapeDtypeStruct((2, 7, 4), jnp.float32)
    graph = lap_jax.trace(model, params, x)
    assert lap_jax.uses(model, params, x, graph=graph) == {"q": 14, "k": 14, "out": 2}


def test_a_layer_read_twice_counts_twice_and_an_embedding_not_at_all() -> None:
    params = {"table": of(11, 4), "same": of(4, 4), "head": of(4, 2)}

    def model(params: Any, tokens: jax.Array) -> jax.Array:
        x = params["table"]["kernel"][tokens]
        for _ in range(2):
            x = jax.nn.relu(x @ params["same"]["kernel"])
        return x[:, 0] @ params["head"]["kernel"]

    tokens = jnp.zeros((3, 5), jnp.int32)
    graph = lap_jax.trace(model, params, tokens)
    found = lap_jax.uses(model, params, tokens, graph=graph)
    assert found == {"table": 0, "same": 2 * 15, "head": 3}


def test_layers_of_a_scan_count_each() -> None:
    params = {"stack": of(3, 4, 4)}

    def model(params: Any, x: jax.Array) -> jax.Array:
        def step(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, None]:
            return jax.nn.relu(x @ kernel), None

        return jax.lax.scan(step, x, params["stack"]["kernel"])[0]

    x = jnp.ones((5, 4))
    graph = lap_jax.trace(model, params, x)
    assert lap_jax.uses(model, params, x, graph=graph) == dict.fromkeys(graph.names, 5)


def test_a_graph_of_other_parameters_is_refused() -> None:
    params, x = {"a": of(4, 3)}, jnp.ones((1, 4))
    graph = lap_jax.trace(lambda p, x: x @ p["a"]["kernel"], params, x)
    other = {"a": of(4, 5)}
    with pytest.raises(PruningError):
        lap_jax.uses(lambda p, x: x @ p["a"]["kernel"], other, x, graph=graph)

"""A model run with its graph beside: what reaches layers, what they give, what may be put in."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.tracing.builder import GraphBuilder
from lap_jax.tracing.interpreter import read
from lap_jax.tracing.pairs import Pair, by_channel, pair_interpreter
from lap_jax.tracing.trace import model_program
from tests.shrinking.held import normal


def test_what_layers_meet_and_give() -> None:
    params: Any = {"stack": normal(2, 4, 4), "bias": normal(4), "head": normal(4, 3)}
    x = normal(5, 4)

    def model(p: Any, x: jax.Array) -> jax.Array:
        h, _ = jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), x + p["bias"], p["stack"])
        return h @ p["head"]

    program, empty, values = model_program(model, params, (x,), {})
    reached: dict[str, jax.Array] = {}
    given: dict[str, jax.Array] = {}
    others: list[str] = []

    def gives(name: str, ids: np.ndarray, array: jax.Array) -> jax.Array:
        np.testing.assert_array_equal(ids, np.arange(array.shape[1])[None].repeat(5, 0))
        given[name] = array
        return array * 2

    reader = pair_interpreter(
        GraphBuilder(empty.shapes, empty.kernels),
        lambda name, x, rows, size: reached.update({name: x}),
        gives,
        lambda eqn, operands: others.append(eqn.primitive.name),
    )
    pairs = [Pair(*pair) for pair in zip(values, jax.tree.leaves((params, x)), strict=True)]
    (out,) = read(reader, program, pairs)
    h = x + params["bias"]
    for step in range(2):
        np.testing.assert_allclose(reached[f"stack[{step}]"], h, rtol=1e-5)
        np.testing.assert_allclose(
            given[f"stack[{step}]"], h @ params["stack"][step], rtol=1e-5, atol=1e-6
        )
        h = jax.nn.relu(2 * h @ params["stack"][step])
    np.testing.assert_allclose(out.array, 2 * h @ params["head"], rtol=1e-5, atol=1e-5)
    assert "add" in others
    assert "dot_general" not in others


def test_sums_by_channel() -> None:
    values = normal(5, 3, 4)
    ids = np.broadcast_to(np.array([1, 0, 1], np.int32)[:, None], (5, 3, 4))
    found = by_channel(values, ids, 2)
    expected = [values[:, 1].sum(), values[:, [0, 2]].sum()]
    np.testing.assert_allclose(found, jnp.stack(expected), rtol=1e-5)

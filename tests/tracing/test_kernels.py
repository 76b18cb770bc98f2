"""Which layer a kernel is."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lap_jax
from tests.tracing.small import kernels, w


def test_kernels_of_any_layout() -> None:
    """Transposed, split into heads and batched kernels give the scores of plain ones."""
    plain = kernels((6, 8), (8, 4))
    heads = {"a": {"kernel": w(plain, "a").reshape(6, 2, 4)}, "b": {"kernel": w(plain, "b").T}}

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = jnp.einsum("td,dhk->thk", x, w(p, "a")).reshape(-1, 8)
        return jnp.einsum("ti,oi->to", h, w(p, "b"))

    graph = lap_jax.trace(model, heads, jnp.ones((3, 6)))
    masks = lap_jax.lookahead_masks(heads, graph, 0.5)
    expected = lap_jax.lookahead_masks(plain, ["a", "b"], 0.5)
    np.testing.assert_array_equal(w(masks, "a").reshape(6, 8), w(expected, "a"))
    np.testing.assert_array_equal(w(masks, "b").T, w(expected, "b"))


def test_tied_weights_add_their_scores_in_squares() -> None:
    params = {"embed": {"embedding": kernels((7, 4))["a"]["kernel"]}} | kernels((4, 4))

    def model(p: Any, tokens: jax.Array) -> jax.Array:
        table = p["embed"]["embedding"]
        return jnp.tanh(table[tokens] @ w(p, "a")) @ table.T

    graph = lap_jax.trace(model, params, jnp.zeros((2, 3), int))
    assert graph.names == ("embed", "a", "embed (read 2)")
    assert [layer.name for layer in graph.prunable] == ["embed", "a"]
    found = lap_jax.lookahead_scores(params, graph)
    table, a = np.asarray(params["embed"]["embedding"]), np.asarray(w(params, "a"))
    first = abs(table) * np.linalg.norm(a, axis=1)
    second = abs(table) * np.linalg.norm(a, axis=0)
    masks = lap_jax.lookahead_masks(params, graph, 0.5)["embed"]["embedding"]
    kept = np.sort(np.hypot(first, second).ravel())[-14:]
    np.testing.assert_array_equal(masks, np.hypot(first, second) >= kept[0])
    assert set(found) == {"embed", "a"}
    for method in ("LAP-forward", "LAP-backward-seq"):
        ordered = lap_jax.lookahead_masks(params, graph, 0.5, method=method)
        assert int(ordered["embed"]["embedding"].sum()) == 14

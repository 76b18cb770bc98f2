"""What is reached and read, against paths that are walked weight by weight."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lap_jax
from lap_jax import IDENTITY, Edge, Graph, Layer
from lap_jax.graph.layers import Junction
from lap_jax.scoring.kernels import Layout, layout_of
from lap_jax.scoring.liveness import alive, effective, lead_through
from tests.networks import Array


def live_of(graph: Graph, masks: dict[str, Array]) -> Any:
    """In NumPy and in JAX, which must say the same."""

    def led(array: Any) -> Any:
        def lead(name: str, channels: Any, forward: bool) -> Any:
            layout = layout_of(graph[name])
            return lead_through(layout, array(masks[name]), array(channels), forward)

        return alive(graph, lead, False)

    found, other = led(np.asarray), led(jnp.asarray)
    chex.assert_trees_all_equal(found, other)
    assert not any(isinstance(each, jax.Array) for each in jax.tree.leaves(found))
    return other


def found_in(graph: Graph, masks: dict[str, Array]) -> dict[str, Array]:
    """By layer, the effective weights."""
    live = live_of(graph, masks)
    return {
        layer.name: np.asarray(
            effective(layout_of(layer), jnp.asarray(masks[layer.name]), live.reached[layer.name],
                      live.read[layer.name])
        )
        for layer in graph.layers
    }  # fmt: skip


def walked(masks: list[Array]) -> list[Array]:
    """Of a row of dense layers: weights on a path, which is walked from every input."""
    found = [np.zeros(mask.shape, bool) for mask in masks]

    def walk(layer: int, neuron: int, path: list[tuple[int, int, int]]) -> None:
        if layer == len(masks):
            for place in path:
                found[place[0]][place[1:]] = True
            return
        for k in np.flatnonzero(masks[layer][neuron]):
            walk(layer + 1, int(k), [*path, (layer, neuron, int(k))])

    for neuron in range(len(masks[0])):
        walk(0, neuron, [])
    return found


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.floats(0.05, 0.6))
def test_dense_layers_in_a_row(seed: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    shapes = [(4, 5), (5, 3), (3, 4)]
    masks = {f"l{i}": rng.random(shape) < density for i, shape in enumerate(shapes)}
    layers = tuple(Layer(name, name, masks[name].shape) for name in masks)
    graph = Graph(layers, (Edge("l0", "l1"), Edge("l1", "l2")))
    wanted = dict(zip(masks, walked(list(masks.values())), strict=True))
    chex.assert_trees_all_equal(found_in(graph, masks), wanted)


@given(st.integers(0, 2**31), st.booleans())
def test_leading_through_a_grouped_convolution(seed: int, forward: bool) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((2, 2, 3, 4)) < 0.2
    layout = Layout(mask.shape, groups=2)
    channels = rng.random(6 if forward else 4) < 0.5
    wanted = np.zeros(4 if forward else 6, bool)
    for *_, j, k in np.argwhere(mask):
        source = (k // 2) * 3 + j  # the input of k's group
        if forward:
            wanted[k] |= channels[source]
        else:
            wanted[source] |= channels[k]
    found = lead_through(layout, jnp.asarray(mask), jnp.asarray(channels), forward)
    np.testing.assert_array_equal(found, wanted)
    in_numpy = lead_through(layout, mask, channels, forward)
    assert isinstance(in_numpy, np.ndarray)
    np.testing.assert_array_equal(in_numpy, wanted)


def two(kind: str, *edges: Edge) -> Graph:
    """Two layers of three channels that meet, and one behind."""
    layers = tuple(Layer(name, name, (3, 3)) for name in ("a", "b", "c"))
    return Graph(layers, (Edge("a", "m"), Edge("b", "m"), Edge("m", "c"), *edges),
                 (Junction("m", 3, kind),))  # fmt: skip


FULL = {name: np.ones((3, 3), bool) for name in "abc"}


@pytest.mark.parametrize(
    ("kind", "reached"), [("sum", [True] * 3), ("product", [False, True, True])]
)
def test_a_sum_is_reached_by_any_a_product_by_all(kind: str, reached: list[bool]) -> None:
    masks = FULL | {"a": FULL["a"] & np.array([False, True, True])}
    live = live_of(two(kind), masks)
    assert live.reached["m"].tolist() == reached
    assert live.reached["c"].tolist() == reached
    # A branch of a product is read where the other is reached.
    assert live.read["b"].tolist() == reached


def test_an_identity_brings_a_sum_to_life_and_a_constant_does_not() -> None:
    masks = {name: np.zeros((3, 3), bool) for name in "ab"} | {"c": FULL["c"]}
    assert not live_of(two("sum"), masks).reached["c"].any()
    assert live_of(two("sum", Edge(IDENTITY, "m")), masks).reached["c"].all()


def test_a_flatten_and_a_concatenation_lead_by_channel() -> None:
    layers = (Layer("a", "a", (2, 2)), Layer("b", "b", (2, 1)), Layer("c", "c", (6, 2)))
    edges = (Edge("a", "c", positions=2), Edge("b", "c", positions=2, offset=2))
    masks = {"a": np.array([[1, 0], [1, 0]], bool), "b": np.ones((2, 1), bool)}
    masks["c"] = np.zeros((6, 2), bool)
    masks["c"][3] = True  # the first channel of a, at the second position
    live = live_of(Graph(layers, edges), masks)
    assert live.reached["c"].tolist() == [True, False, True] * 2
    assert live.read["a"].tolist() == [True, False]
    assert live.read["b"].tolist() == [False]


def test_what_only_feeds_itself_is_dead() -> None:
    layers = tuple(Layer(name, name, (2, 2)) for name in ("a", "loop", "b"))
    edges = (Edge("a", "s"), Edge("loop", "s"), Edge("s", "loop"), Edge("s", "b"))
    graph = Graph(layers, edges, (Junction("s", 2),))
    masks = {name: np.eye(2, dtype=bool) for name in ("loop", "b")}
    masks["a"] = np.array([[1, 0], [1, 0]], bool)
    live = live_of(graph, masks)
    assert live.reached["s"].tolist() == [True, False]
    masks["loop"] = np.array([[0, 1], [0, 0]], bool)  # the second is reached from the first
    assert live_of(graph, masks).reached["s"].tolist() == [True, True]


def test_a_summary_counts_weights_on_a_path() -> None:
    masks = {"a": {"kernel": np.array([[1, 1], [0, 1]], bool)},
             "b": {"kernel": np.array([[0, 0, 1], [0, 0, 0]], bool)}}  # fmt: skip
    params = jax.tree.map(lambda mask: np.ones(mask.shape, np.float32), masks)
    graph = lap_jax.chain(params, ["a", "b"])
    summary = lap_jax.summarize(masks, graph)
    assert [row.effective for row in summary.rows] == [1, 1]
    assert summary.total.effective == 2
    assert "effective" in str(summary)
    assert lap_jax.summarize(masks).total.effective is None

"""Single heads of grouped queries, told by the graph."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lap_jax
from lap_jax import Graph, PruningError, Scope
from lap_jax.graph.queries import grouped_queries
from tests import zoo

QUERIES = Scope(unit="neuron", queries=True)
SIZES: Any = {"layers": 1, "width": 16, "heads": 8, "kv_heads": 2, "hidden": 12, "vocabulary": 11}


def traced(**changes: Any) -> Graph:
    model, x = zoo.Llama(**{**SIZES, **changes}), jnp.zeros((1, 5), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return lap_jax.trace(model, shapes, x)


@pytest.mark.parametrize("repeat", [True, False])
def test_a_query_of_every_key_is_one_neuron_and_keys_and_values_stay(repeat: bool) -> None:
    graph = traced(repeat=repeat)
    neurons = lap_jax.neuron_groups(graph, scope=QUERIES)
    group = next(group for group in neurons.groups if group.kind == "heads")
    assert (group.width, group.channels, group.fixed) == (4, 4, "")
    assert (group.writes, group.reads) == (("layers_0/q",), ("layers_0/o",))
    # channels by key, query and place within the head: the number is the query's
    expected = np.broadcast_to(np.arange(4)[:, None], (2, 4, 2)).ravel() + group.start
    for side in (("layers_0/q", "out"), ("layers_0/o", "in")):
        assert neurons.sides[side].values.tolist() == expected.tolist()
    fixed = {group.name: group.fixed for group in neurons.groups}
    assert fixed["layers_0/k"] == fixed["layers_0/v"] == "several queries share it"
    assert "layers_0/gate" in {group.name for group in neurons.free}
    # and whole keys with all their queries, where nothing else is asked for
    assert (graph.neurons.groups[1].width, graph.neurons.groups[1].channels) == (2, 8)


def test_one_key_for_all_leaves_every_query_to_itself() -> None:
    groups = lap_jax.neuron_groups(traced(kv_heads=1), scope=QUERIES).groups
    assert [(each.width, each.channels) for each in groups if each.kind == "heads"] == [(8, 2)]


def test_heads_with_keys_of_their_own_are_what_they_were() -> None:
    graph = traced(kv_heads=8)
    assert grouped_queries(graph) == []
    assert lap_jax.neuron_groups(graph, scope=QUERIES) == graph.neurons


def attention(keys: list[int], mixed: bool = False) -> Graph:
    """Of queries that read these keys."""

    def model(p: Any, x: jax.Array) -> jax.Array:
        q = (x @ p["q"]).reshape(4, 3, 2)
        k, v = ((x @ p[name]).reshape(4, 2, 2)[:, keys] for name in "kv")
        weights = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, k))
        y = jnp.einsum("hqk,khd->qhd", weights, v).reshape(4, 6)
        return (y * (x @ p["q"]) if mixed else y) @ p["o"]

    params = {"q": jnp.ones((5, 6)), "k": jnp.ones((5, 4)), "v": jnp.ones((5, 4)),
              "o": jnp.ones((6, 3))}  # fmt: skip
    return lap_jax.trace(model, params, jnp.ones((4, 5)))


def test_keys_with_different_numbers_of_queries_are_refused_by_name() -> None:
    neurons = lap_jax.neuron_groups(attention([0, 0, 1]), scope=QUERIES)
    fixed = {group.name: group.fixed for group in neurons.groups}
    assert fixed["q"] == "keys have different numbers of queries, [1, 2]"


def test_heads_that_meet_something_else_are_not_told_apart() -> None:
    neurons = lap_jax.neuron_groups(attention([0, 0, 0], mixed=True), scope=QUERIES)
    fixed = {group.name: group.fixed for group in neurons.groups}
    assert fixed["q"] == "which inputs a single query brings values to is not known"


def test_queries_go_with_neurons_alone() -> None:
    with pytest.raises(PruningError, match="uniform and queries go with unit='neuron' alone"):
        lap_jax.neuron_groups(traced(), scope=Scope(queries=True))

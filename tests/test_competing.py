"""Layers or groups of neurons: what is given a sparsity, and how much of it stays."""

import jax.numpy as jnp

import lap_jax
from lap_jax import METHODS, Scope
from lap_jax.competing import kept_by_step, levels_by_name, with_outputs
from lap_jax.selection.scope import checked_scope


def test_layers_compete_or_groups_of_neurons() -> None:
    shapes = {"a": (3, 8), "b": (8, 4), "c": (4, 2)}
    params = {name: {"kernel": jnp.ones(shape)} for name, shape in shapes.items()}
    graph, steps = lap_jax.chain(params, list(params)), METHODS["MP"]._replace(steps=2)
    weights, neurons = checked_scope(Scope()), checked_scope(Scope(unit="neuron"))
    assert levels_by_name(graph, weights, 0.5) == {"a": 0.5, "b": 0.5, "c": 0.5}
    assert levels_by_name(graph, neurons, 0.5) == {"a": 0.5, "b": 0.5}
    kept = kept_by_step(graph, steps, weights, {"a": 0.5, "b": 0.5, "c": 0.5})
    assert kept.tolist() == [[18, 24, 6], [12, 16, 4]]
    assert kept_by_step(graph, steps, neurons, {"a": 0.5, "b": 0.5}).tolist() == [[6, 3], [4, 2]]
    both = checked_scope(Scope("global", unit="neuron"))
    assert kept_by_step(graph, steps, both, {"a": 0.5, "b": 0.5}).tolist() == [[9], [6]]
    assert with_outputs(graph, checked_scope(Scope(unit="channel"))).pinned == {"c"}
    assert not with_outputs(graph, neurons).pinned

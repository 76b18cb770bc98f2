"""What a method reads of a network: norms against loops, scores stage by stage."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lap_jax import Edge, Graph, Layer, Method, chain, lookahead_scores
from lap_jax.network import (
    Network,
    flows,
    inputs_of_scores,
    peaks,
    propagation,
    staged,
    tied_layers,
)
from lap_jax.scoring.kernels import part_of
from tests import oracle
from tests.networks import Array, Normed, conv_net, mlp

LAP = Method()


def network_of(
    net: Normed, method: Method = LAP, gains: Any = None, tensors: Any = None
) -> Network:
    graph = chain(net.params, net.declared, net.stats)
    leaves = {layer.name: jnp.asarray(net.params[layer.name]["kernel"]) for layer in graph.layers}
    parts = {layer.name: part_of(layer, leaves[layer.name]) for layer in graph.layers}
    return Network(graph, method, parts, gains or {}, {}, jax.random.key(0), tensors or {})


def masks_of(net: Normed) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    return {name: rng.random(net.params[name]["kernel"].shape) < 0.5 for name in net.names}


@pytest.mark.parametrize("masked", [False, True])
def test_norms_of_kernels_are_those_of_the_oracle(masked: bool) -> None:
    """By input and by output neuron, of the weights that masks leave; groups apart."""
    net = conv_net()
    network, masks = network_of(net), masks_of(net) if masked else None
    arrays = None if masks is None else {name: jnp.asarray(mask) for name, mask in masks.items()}
    tops = peaks(network, net.names, arrays)
    found = flows(network, net.names, tops, arrays)
    for name, layer in zip(net.names, net.layers, strict=True):
        kernel = np.asarray(layer.kernel) * (1 if masks is None else masks[name])
        plain = layer._replace(kernel=kernel, gain=None)
        inputs = kernel.shape[-2] * layer.groups
        chex.assert_trees_all_close(tops[name], np.abs(kernel).max(), rtol=0)
        wanted = oracle.out_of(plain, inputs), oracle.into(plain, kernel.shape[-1])
        chex.assert_trees_all_close(found[name], wanted, rtol=1e-6)


@pytest.mark.parametrize("rescale", [False, True])
def test_scores_of_stages_are_eq_9_up_to_a_power_of_two(rescale: bool) -> None:
    net = conv_net()
    gains = {
        name: jnp.abs(jnp.asarray(layer.gain, jnp.float32))
        for name, layer in zip(net.names, net.layers, strict=True)
        if layer.gain is not None
    }
    network = network_of(net, gains=gains)
    known = propagation(network, flows(network, net.names, peaks(network, net.names), None), {})
    calls = inputs_of_scores(network, network.graph.prunable, known, {}, rescale)
    for i, name in enumerate(net.names):
        rule, operands = calls[name]
        function, own = staged(rule, *operands)
        ratio = np.asarray(function(*own), np.float64) / oracle.eq9(net.layers, i)
        factor = ratio.flat[0] if rescale else 1.0
        np.testing.assert_allclose(ratio, np.full_like(ratio, factor), rtol=2e-5)
        assert abs(math.log2(factor) - round(math.log2(factor))) < 1e-4


def test_a_function_of_ones_own_is_never_rescaled() -> None:
    """It may add what a power of two would change."""
    net = conv_net()

    def score(kernel: jax.Array, input: jax.Array) -> jax.Array:
        return jnp.abs(kernel) + input

    network = network_of(net, Method(score))
    known = propagation(network, flows(network, net.names, peaks(network, net.names), None), {})
    calls = inputs_of_scores(network, network.graph.prunable, known, {}, True)
    assert not any(rule.rescale for rule, _ in calls.values())


def test_random_scores_are_of_a_key_for_each_layer() -> None:
    params = mlp(widths=[6, 6, 6])
    found = lookahead_scores(params, list(params), method="RP", key=jax.random.key(1))
    one, two = found.values()
    assert not (one == two).any()


# ---------------------------------------------------------------- weights that are read twice


def autoencoder() -> tuple[Any, Graph]:
    """``x -> x W -> x W W'``."""
    params = {"w": mlp()["Dense_0"]["kernel"]}
    rows, columns = params["w"].shape
    first = Layer("w", "w", (rows, columns))
    back = Layer("back", "w", (columns, rows), split=(rows, columns), order=(1, 0), tied_to="w")
    return params, Graph((first, back), (Edge("w", "back"),))


def test_tied_layers_are_listed_under_whose_weights_they_hold() -> None:
    _, graph = autoencoder()
    assert tied_layers(graph) == {"w": [graph["back"]]}
    assert tied_layers(chain(mlp(), list(mlp()))) == {}


def test_weights_that_are_read_twice_add_up_in_squares() -> None:
    """Both times ``w[j, k]`` counts with the norm of column ``k``, of the other reading."""
    params, graph = autoencoder()
    found = lookahead_scores(params, graph)
    weights = params["w"].astype(np.float64)
    wanted = np.abs(weights) * np.linalg.norm(weights, axis=0) * math.sqrt(2)
    chex.assert_trees_all_close(found, {"w": wanted}, rtol=1e-6)

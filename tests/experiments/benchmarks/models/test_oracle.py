from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.models.claims import Verdict, judge
from experiments.benchmarks.models.example import leaves_by_path, noise, stirred, tokens
from experiments.benchmarks.models.oracle import reached
from lap_jax import Edge, Graph, trace
from lap_jax.graph.layers import Index

Tree = dict[str, Any]
Network = Callable[..., jax.Array]


def kernels(**shapes: tuple[int, ...]) -> Tree:
    return {name: noise(*shape, seed=number) for number, (name, shape) in enumerate(shapes.items())}


def convolve(x: jax.Array, kernel: jax.Array, groups: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )  # fmt: skip


def verdict(network: Network, params: Tree, *inputs: jax.Array, graph: Graph | None = None
            ) -> Verdict:  # fmt: skip
    leaves = leaves_by_path(params)
    program = jax.make_jaxpr(
        lambda arrays, inputs: network(dict(zip(leaves, arrays, strict=True)), *inputs)
    )(list(leaves.values()), list(inputs))
    found = reached(program, list(leaves.values()), list(inputs))
    return judge(graph or trace(network, params, *inputs), found, leaves)


def chain(p: Tree, x: jax.Array) -> jax.Array:
    return jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]


def residual(p: Tree, x: jax.Array) -> jax.Array:
    y = x @ p["a"]
    y = y + jax.nn.relu(y) @ p["b"]
    centred = y - y.mean(-1, keepdims=True)
    return (centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)) @ p["c"]


def joined(p: Tree, x: jax.Array) -> jax.Array:
    return jnp.concatenate([x @ p["a"], jnp.tanh(x @ p["b"])], -1) @ p["c"]


def grouped(p: Tree, x: jax.Array) -> jax.Array:
    y = jax.nn.relu(convolve(convolve(x, p["a"]), p["b"], groups=2))
    return y.mean((1, 2)) @ p["c"]


def flattened(p: Tree, x: jax.Array) -> jax.Array:
    return jax.nn.relu(convolve(x, p["a"])).reshape(len(x), -1) @ p["b"]


def attending(p: Tree, ids: jax.Array) -> jax.Array:
    x = p["t"][ids]
    q, k, v = (part.reshape(*ids.shape, 2, 2) for part in jnp.split(x @ p["qkv"], 3, -1))
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*ids.shape, 4) @ p["o"]


def turning(p: Tree, x: jax.Array) -> jax.Array:
    x, _ = jax.lax.scan(lambda x, kernel: (jax.nn.relu(x @ kernel), None), x, p["stack"])
    return x @ p["c"]


CASES: dict[str, tuple[Network, Tree, jax.Array, int]] = {
    "chain": (chain, kernels(a=(3, 5), b=(5, 4), c=(4, 2)), noise(3, 3), 2),
    "residual": (residual, kernels(a=(3, 6), b=(6, 6), c=(6, 2)), noise(3, 3), 3),
    "joined": (joined, kernels(a=(3, 2), b=(3, 4), c=(6, 2)), noise(3, 3), 2),
    "grouped": (grouped, kernels(a=(1, 1, 3, 4), b=(3, 3, 2, 6), c=(6, 2)), noise(2, 4, 4, 3), 2),
    "flattened": (flattened, kernels(a=(3, 3, 2, 4), b=(64, 3)), noise(2, 4, 4, 2), 1),
    # The values, one part of a kernel in three, reach the projection; queries and keys do not.
    "attending": (attending, kernels(t=(20, 4), qkv=(4, 12), o=(4, 4)), tokens(2, 5), 2),
    "turning": (turning, kernels(stack=(3, 4, 4), c=(4, 2)), noise(3, 4), 3),
}


@pytest.mark.parametrize("name", CASES)
def test_the_oracle_agrees_with_a_traced_graph(name: str) -> None:
    network, params, inputs, edges = CASES[name]
    assert verdict(network, params, inputs) == Verdict(edges, edges, (), 0, ())


def test_what_a_graph_lacks_is_named() -> None:
    network, params, inputs, _ = CASES["chain"]
    graph = trace(network, params, inputs).cut("a", "b")
    found = verdict(network, params, inputs, graph=graph)
    assert (found.edges, found.agree) == (2, 1)
    assert found.differ == ("a -> b: not in the graph",)


def test_what_a_graph_has_alone_is_counted() -> None:
    network, params, inputs, _ = CASES["chain"]
    graph = trace(network, params, inputs).connect(Edge("a", "c", pairs=Index([[0, 1], [2, 3]])))
    found = verdict(network, params, inputs, graph=graph)
    assert found.differ == ("a -> c: 2 of 20 pairs in the graph alone",)


def test_other_channels_are_a_difference() -> None:
    network, params, inputs, _ = CASES["joined"]
    graph = trace(network, params, inputs).cut("a", "c").connect(Edge("a", "c", offset=1))
    found = verdict(network, params, inputs, graph=graph)
    assert found.differ == (
        "a -> c: 2 of 12 pairs not in the graph, 2 of 12 pairs in the graph alone",
    )


def test_a_kernel_that_is_in_no_layer_is_lost() -> None:
    def network(p: Tree, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ p["a"]) @ (p["b"] * p["c"])

    found = verdict(network, kernels(a=(3, 5), b=(5, 4), c=(5, 4)), noise(3, 3))
    assert found.edges == found.agree
    assert set(found.lost) <= {"b", "c", "a kernel made of several parameters"}
    assert found.lost


def test_what_a_loop_carries_is_behind_a_barrier() -> None:
    def network(p: Tree, x: jax.Array) -> jax.Array:
        def step(state: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
            return jnp.tanh(x @ p["a"] + state @ p["b"]), None

        last, _ = jax.lax.scan(step, jnp.zeros((2, 4)), x)
        return last @ p["c"]

    found = verdict(network, kernels(a=(3, 4), b=(4, 4), c=(4, 2)), noise(5, 2, 3))
    assert found.edges == found.agree + found.stopped
    assert not found.differ


def test_stirred_variables_have_no_zeros_and_keep_their_kernels() -> None:
    kernel = noise(3, 4)
    found = stirred({"kernel": kernel, "scale": jnp.ones(4), "zeros": jnp.zeros((4, 4)),
                     "count": jnp.zeros((), jnp.int32)})  # fmt: skip
    np.testing.assert_array_equal(found["kernel"], kernel)
    assert len(np.unique(found["scale"])) == 4
    assert np.asarray(found["zeros"]).all()
    assert found["count"] == 0
    block = stirred({"gamma": jnp.full(4, -1e-6), "bias": jnp.array([1e-6, 2e-6])})
    assert bool((block["gamma"] < -0.5).all())  # a block's scale that starts near zero
    assert bool((block["bias"] < 1e-5).all())  # numbers of their own stay small


def test_paths_are_those_of_a_graph() -> None:
    tree = {"params": {"a": {"kernel": jnp.ones(2)}}, "batch_stats": {"a": {"var": jnp.ones(2)}}}
    assert list(leaves_by_path(tree)) == ["a/var", "a/kernel"]
    assert list(leaves_by_path({"a": [jnp.ones(2), jnp.ones(2)]})) == ["a/0", "a/1"]


def dead(p: Tree, x: jax.Array) -> jax.Array:
    y = jax.nn.relu(x @ p["a"] - 1000)
    centred = y - y.mean(-1, keepdims=True)
    return jax.nn.relu(centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) - 2) @ p["b"]


def test_dead_relus_hide_no_channel_and_make_no_neighbour_of_a_statistic() -> None:
    found = verdict(dead, kernels(a=(5, 16), b=(16, 3)), noise(2, 5))
    assert (found.edges, found.agree, found.differ) == (1, 1, ())


def probing(p: Tree, x: jax.Array) -> jax.Array:
    keys = x @ p["k"]
    weights = jax.nn.softmax((p["probe"] @ p["q"]) @ keys.T)
    return (weights @ (x @ p["v"])) @ p["o"]


def test_a_layer_whose_kernel_is_met_made_of_several_is_not_judged_but_said() -> None:
    params = kernels(k=(5, 4), probe=(2, 6), q=(6, 4), v=(5, 4), o=(4, 3))
    graph = trace(probing, params, noise(7, 5))
    assert any(edge.target == "q" or edge.source == "q" for edge in graph.edges)
    found = verdict(probing, params, noise(7, 5), graph=graph)
    assert (found.edges, found.agree, found.differ) == (1, 1, ())
    assert found.lost == ("a kernel made of several parameters",)

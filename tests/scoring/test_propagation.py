"""What neighbours make of weights: on graphs by the matrices of Eq. 4, by channels in loops."""

import math
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lap_jax import IDENTITY, Edge, Graph, Layer, LayerSpec, lookahead_scores
from lap_jax.graph.layers import Index, Junction
from lap_jax.scoring.propagation import (
    Flow,
    Measured,
    Propagation,
    after,
    before,
    changed,
    rests_on,
    sides,
)
from tests import oracle
from tests.networks import Array, assert_close, refused

# ---------------------------------------------------------------- scores by Eq. 4


def branches(rng: np.random.Generator, **shapes: tuple[int, int]) -> oracle.Tree:
    return {
        name: {"kernel": rng.normal(size=shape).astype(np.float32)}
        for name, shape in shapes.items()
    }


def matrix(params: oracle.Tree, name: str) -> Any:
    return np.asarray(params[name]["kernel"], np.float64).T


def dense(params: oracle.Tree, name: str) -> oracle.Layer:
    return oracle.Layer(np.asarray(params[name]["kernel"], np.float64))


def test_summed_inputs_are_independent_sources() -> None:
    """c reads a(x) + b(y): its block sees [A B] on the two inputs side by side."""
    params = branches(np.random.default_rng(0), a=(3, 4), b=(2, 4), c=(4, 5))
    found = lookahead_scores(
        params, ["a", LayerSpec("b", previous=()), LayerSpec("c", previous=("a", "b"))]
    )
    ones = np.ones((1, 5))
    before = np.hstack([matrix(params, "a"), matrix(params, "b")])
    wanted = [
        oracle.eq4(dense(params, "a"), np.ones((3, 1)), matrix(params, "c")),
        oracle.eq4(dense(params, "b"), np.ones((2, 1)), matrix(params, "c")),
        oracle.eq4(dense(params, "c"), before, ones),
    ]
    assert_close(found, wanted, 1e-5)


def test_concatenated_inputs_sit_side_by_side() -> None:
    """c reads [a(x), b(y)]: its first rows belong to a, the others to b."""
    params = branches(np.random.default_rng(1), a=(3, 4), b=(2, 6), c=(10, 5), d=(5, 2))
    found = lookahead_scores(
        params, ["a", LayerSpec("b", previous=()), LayerSpec("c", previous=("a", "b")), "d"]
    )
    a, b, c, d = (matrix(params, name) for name in params)
    before = np.block([[a, np.zeros((4, 2))], [np.zeros((6, 3)), b]])
    wanted = [
        oracle.eq4(dense(params, "a"), np.ones((3, 1)), c[:, :4]),
        oracle.eq4(dense(params, "b"), np.ones((2, 1)), c[:, 4:]),
        oracle.eq4(dense(params, "c"), before, d),
        oracle.eq4(dense(params, "d"), c, np.ones((1, 2))),
    ]
    assert_close(found, wanted, 1e-5)


def test_one_output_read_by_several_layers() -> None:
    """b and c both read a: a's block ends in both outputs, one above the other."""
    params = branches(np.random.default_rng(2), a=(3, 4), b=(4, 2), c=(4, 5))
    found = lookahead_scores(params, ["a", "b", LayerSpec("c", previous="a")])
    a, b, c = (matrix(params, name) for name in params)
    wanted = [
        oracle.eq4(dense(params, "a"), np.ones((3, 1)), np.vstack([b, c])),
        oracle.eq4(dense(params, "b"), a, np.ones((1, 2))),
        oracle.eq4(dense(params, "c"), a, np.ones((1, 5))),
    ]
    assert_close(found, wanted, 1e-5)


def test_identity_branch_adds_a_unit_path() -> None:
    """a, then x + b(x), then c: b's neighbours in chain order, plus 1 for the identity."""
    params = branches(np.random.default_rng(3), a=(3, 4), b=(4, 4), c=(4, 2))
    declared: list[Any] = [
        LayerSpec("a", next=("b", IDENTITY)),
        "b",
        LayerSpec("c", previous=("b", IDENTITY)),
    ]
    found = lookahead_scores(params, declared)
    a, b, c = (matrix(params, name) for name in params)
    closed = np.sqrt((c**2).sum(0)), np.sqrt((b**2).sum(1) + 1), np.sqrt((b**2).sum(0) + 1)
    np.testing.assert_allclose(found["a"], np.abs(a.T) * closed[2], rtol=1e-5)
    np.testing.assert_allclose(found["c"], np.abs(c.T) * closed[1][:, None], rtol=1e-5)
    wanted = [
        oracle.eq4(dense(params, "a"), np.ones((3, 1)), np.vstack([b, np.eye(4)])),
        oracle.eq4(dense(params, "b"), a, c),
        oracle.eq4(dense(params, "c"), np.hstack([b, np.eye(4)]), np.ones((1, 2))),
    ]
    assert_close(found, wanted, 1e-5)


# ---------------------------------------------------------------- channel by channel

SHAPES = {
    "a": (3, 4), "b": (4, 4), "c": (4, 5), "gate": (4, 5), "d": (5, 6), "wide": (14, 2),
    "last": (2, 3),
}  # fmt: skip


def network(seed: int = 0) -> tuple[Graph, dict[str, Array], dict[str, Array]]:
    """A sum, a gate, a concatenation, channels by pairs, identities, a flatten; kernels and gains.

    ``h = a(x); s = h / 2 + b(h); p = c(s) * gate(s) * 3; d(p); wide([s, p', x, d]); last``
    """
    layers = tuple(Layer(name, name, shape) for name, shape in SHAPES.items())
    junctions = (Junction("sum 0", 4), Junction("product 0", 5, "product"), Junction("cat 0", 7))
    edges = (
        Edge("a", "b"), Edge("a", "sum 0", scale=0.5), Edge("b", "sum 0"),
        Edge("sum 0", "c"), Edge("sum 0", "gate"), Edge("c", "product 0", scale=3.0),
        Edge("gate", "product 0"), Edge("product 0", "d"),
        Edge("sum 0", "cat 0"), Edge("d", "cat 0", pairs=Index([[0, 4], [5, 5], [2, 5], [0, 6]])),
        Edge(IDENTITY, "wide"), Edge("cat 0", "wide", 2), Edge("wide", "last"),
        Edge("d", IDENTITY),
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    kernels = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    gains = {name: np.abs(rng.normal(size=size)) for name, size in
             {"a": 4, "d": 6, "sum 0": 4, "product 0": 5}.items()}  # fmt: skip
    return Graph(layers, edges, junctions), kernels, gains


class Loops:
    """Energies of single channels, by the recursion that the docstrings state."""

    def __init__(
        self, graph: Graph, kernels: Mapping[str, Array], gains: Mapping[str, Array]
    ) -> None:
        self.graph, self.kernels, self.gains = graph, kernels, gains

    def gain(self, name: str, channel: int) -> float:
        return float(self.gains[name][channel]) ** 2 if name in self.gains else 1.0

    def pairs(self, edge: Edge) -> Any:
        size, width = self.graph.parts[edge.source].out_size, self.graph.parts[edge.target].in_size
        return edge.pairs_of(size, width).tolist()

    def arrives(self, edge: Edge, channel: int, horizon: float) -> float | None:
        """What one edge brings to an input; None where it leads nothing there."""
        if edge.source == IDENTITY:
            return 1.0
        found = [self.brings(edge.source, c, horizon) for c, e in self.pairs(edge) if e == channel]
        return edge.scale**2 * sum(found) if found else None

    def before(self, name: str, channel: int, horizon: float) -> float:
        part, edges = self.graph.parts[name], self.graph.into(name)
        if not edges:
            return 1.0
        found = [self.arrives(edge, channel, horizon) for edge in edges]
        if isinstance(part, Junction) and part.kind == "product":
            return math.prod(each or 0.0 for each in found)
        return sum(each or 0.0 for each in found)

    def brings(self, name: str, channel: int, horizon: float) -> float:
        if isinstance(self.graph.parts[name], Junction):
            return self.gain(name, channel) * self.before(name, channel, horizon)
        column = self.kernels[name][:, channel] ** 2
        reach = [1.0 if horizon == 1 else self.before(name, j, horizon - 1)
                 for j in range(len(column))]  # fmt: skip
        return self.gain(name, channel) * float(column @ np.array(reach))

    def after(self, name: str, channel: int, horizon: float) -> float:
        edges = self.graph.out_of(name)
        total = 0.0 if edges else 1.0
        for edge in edges:
            if edge.target == IDENTITY:
                total += 1.0
                continue
            asked = [self.asks(edge, e, horizon) for c, e in self.pairs(edge) if c == channel]
            total += edge.scale**2 * sum(asked)
        return self.gain(name, channel) * total

    def asks(self, edge: Edge, channel: int, horizon: float) -> float:
        name, part = edge.target, self.graph.parts[edge.target]
        if isinstance(part, Layer):
            row = self.kernels[name][channel] ** 2
            made = [1.0 if horizon == 1 else self.after(name, k, horizon - 1)
                    for k in range(len(row))]  # fmt: skip
            return float(row @ np.array(made))
        value = self.after(name, channel, horizon)
        if part.kind == "product":
            for other in self.graph.into(name):
                if other != edge:
                    value *= self.arrives(other, channel, horizon) or 0.0
        return value


def norms(kernel: Array) -> Flow:
    """By input and by output neuron."""
    return jnp.asarray(np.linalg.norm(kernel, axis=1)), jnp.asarray(np.linalg.norm(kernel, axis=0))


def known(
    graph: Graph, kernels: Mapping[str, Array], gains: Mapping[str, Array],
    measured: Mapping[str, Measured] | None = None,
) -> Propagation:  # fmt: skip
    def weigh(name: str, amplitudes: jax.Array, forward: bool) -> jax.Array:
        squares = jnp.asarray(kernels[name]) ** 2
        energies = amplitudes**2
        return jnp.sqrt(energies @ squares if forward else squares @ energies)

    flows = {name: norms(kernel) for name, kernel in kernels.items()}
    arrays = {name: jnp.asarray(gain) for name, gain in gains.items()}
    return Propagation(graph, flows, arrays, weigh, measured or {}, {})


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("horizon", [1, 2, 3, "all"])
def test_amplitudes_are_the_roots_of_energies_channel_by_channel(horizon: Any) -> None:
    graph, kernels, gains = network()
    loops, found = Loops(graph, kernels, gains), known(graph, kernels, gains)
    far = math.inf if horizon == "all" else horizon
    for name, part in graph.parts.items():
        reached = [math.sqrt(loops.before(name, j, far)) for j in range(part.in_size)]
        made = [math.sqrt(loops.after(name, k, far)) for k in range(part.out_size)]
        chex.assert_trees_all_close(before(found, name, horizon), np.array(reached), rtol=1e-9)
        chex.assert_trees_all_close(after(found, name, horizon), np.array(made), rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_the_whole_path_of_a_chain_is_a_product_of_squares() -> None:
    """``1' W_0**2 W_1**2 ...``, the path score, in matrices."""
    rng = np.random.default_rng(1)
    kernels = {name: rng.normal(size=shape) for name, shape in
               {"a": (3, 4), "b": (4, 5), "c": (5, 2), "d": (2, 6)}.items()}  # fmt: skip
    layers = tuple(Layer(name, name, kernel.shape) for name, kernel in kernels.items())
    graph = Graph(layers, (Edge("a", "b"), Edge("b", "c"), Edge("c", "d")))
    a, b, _, d = (kernel**2 for kernel in kernels.values())
    found = sides(known(graph, kernels, {}), graph["c"], "both", "all")
    chex.assert_trees_all_close(found.input, np.sqrt(np.ones(3) @ a @ b), rtol=1e-12)
    chex.assert_trees_all_close(found.output, np.sqrt(d @ np.ones(6)), rtol=1e-12)
    near = sides(known(graph, kernels, {}), graph["c"], "both", 1)
    chex.assert_trees_all_close(near.input, np.sqrt(np.ones(4) @ b), rtol=1e-12)


def test_a_side_that_is_not_looked_at_is_nothing() -> None:
    graph, kernels, gains = network()
    whole = sides(known(graph, kernels, gains), graph["c"], "both", 1)
    ahead = sides(known(graph, kernels, gains), graph["c"], "forward", 1)
    back = sides(known(graph, kernels, gains), graph["c"], "backward", 1)
    assert ahead.input is None
    assert back.output is None
    chex.assert_trees_all_equal((back.input, ahead.output), tuple(whole))


def test_measurements_take_the_place_of_what_weights_say() -> None:
    graph, kernels, gains = network()
    measured = {"c": Measured(input=jnp.arange(4.0)), "d": Measured(output=jnp.arange(6.0))}
    found = known(graph, kernels, gains, measured)
    plain = known(graph, kernels, gains)
    chex.assert_trees_all_equal(sides(found, graph["c"], "both", 1).input, jnp.arange(4.0))
    chex.assert_trees_all_equal(sides(found, graph["d"], "both", 1).output, jnp.arange(6.0))
    chex.assert_trees_all_equal(
        sides(found, graph["c"], "both", 1).output, sides(plain, graph["c"], "both", 1).output
    )
    assert sides(found, graph["c"], "forward", 1).input is None


@pytest.mark.parametrize("horizon", [1, "all"])
def test_a_changed_kernel_changes_what_was_made_of_it_and_no_more(horizon: Any) -> None:
    graph, kernels, gains = network()
    found = known(graph, kernels, gains)
    for layer in graph.layers:
        sides(found, layer, "both", horizon)
    kernels["b"] = kernels["b"] * np.linspace(0.1, 2, 4)  # which `weigh` sees too
    kept = {key: value for key, value in found.found.items() if "b" not in value.layers}
    changed(found, "b", norms(kernels["b"]))
    assert kept
    assert dict(found.found) == kept
    fresh = known(graph, kernels, gains)
    for layer in graph.layers:
        chex.assert_trees_all_equal(
            sides(found, layer, "both", horizon), sides(fresh, layer, "both", horizon)
        )


@pytest.mark.parametrize("direction", ["both", "forward", "backward"])
@pytest.mark.parametrize("horizon", [1, 2, "all"])
def test_sides_rest_on_the_kernels_that_change_them(direction: str, horizon: Any) -> None:
    graph, kernels, gains = network()
    plain = known(graph, kernels, gains)
    wanted: dict[str, set[str]] = {layer.name: set() for layer in graph.layers}
    for name in kernels:
        other = known(graph, {**kernels, name: 3 * kernels[name]}, gains)
        for layer in graph.layers:
            one, two = (sides(each, layer, direction, horizon) for each in (plain, other))
            if any(np.any(a != b) for a, b in zip(one, two, strict=True) if a is not None):
                wanted[layer.name].add(name)
    assert any(wanted.values())
    for layer in graph.layers:
        fresh = known(graph, kernels, gains)
        assert rests_on(fresh, layer, direction, horizon) == wanted[layer.name]
    again = {layer.name: rests_on(plain, layer, direction, horizon) for layer in graph.layers}
    assert all(wanted[name] <= found for name, found in again.items())


def test_a_loop_has_no_end() -> None:
    layers = (Layer("a", "a", (3, 4)), Layer("h", "h", (4, 4)))
    graph = Graph(layers, (Edge("a", "h"), Edge("h", "h")))
    kernels = {"a": np.ones((3, 4)), "h": np.ones((4, 4))}
    near = sides(known(graph, kernels, {}), graph["h"], "both", 1)
    chex.assert_trees_all_close(near.input, np.full(4, math.sqrt(3 + 4)), rtol=1e-6)
    with refused("feeds itself", "'all' has no end", "use horizon=1"):
        sides(known(graph, kernels, {}), graph["h"], "both", "all")

"""The exact form for convolutions against Eq. 4 with explicit Jacobian matrices.

Maps are circular and large enough that no kernel reaches round them. A weight of one in the place
of the layer gives what `pair_factors` should, times the root of the number of last positions.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lap_jax.batching import Part
from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import IDENTITY, Edge, Index, Layer
from lap_jax.scoring.lags import (
    around,
    both_sides,
    correlated,
    correlations,
    in_lags,
    out_lags,
    pair_factors,
)
from lap_jax.scoring.scores import peak, widen
from tests.networks import Array, refused


class Case(NamedTuple):
    """Three layers in a row: kernel shapes, strides, pools and groups, first to last."""

    shapes: Sequence[tuple[int, ...]]
    strides: tuple[int, int, int] = (1, 1, 1)
    pools: tuple[int, int, int] = (1, 1, 1)
    groups: tuple[int, int, int] = (1, 1, 1)


THREE = [(3, 3, 2, 3), (3, 3, 3, 2), (3, 3, 2, 3)]
CASES = {
    **{
        f"strides {strides}": Case(THREE, strides)
        for strides in [(1, 1, 1), (1, 2, 1), (2, 1, 1), (1, 1, 2), (2, 2, 1), (2, 2, 2)]
    },
    "pool before": Case(THREE, pools=(2, 1, 1)),
    "pool after": Case(THREE, pools=(1, 2, 1)),
    "pool last": Case(THREE, pools=(1, 1, 2)),
    "pool and stride": Case([(5, 5, 1, 3), *THREE[1:]], (1, 2, 1), (2, 1, 1)),
    "5x5 1x1 3x3": Case([(5, 5, 2, 3), (1, 1, 3, 2), (3, 3, 2, 3)], (1, 2, 1)),
    "1x1 3x3 5x5": Case([(1, 1, 2, 3), (3, 3, 3, 2), (5, 5, 2, 2)]),
    "2x2 3x3 4x4": Case([(2, 2, 2, 3), (3, 3, 3, 2), (4, 4, 2, 2)]),
    "5x2 3x1 2x4": Case([(5, 2, 2, 3), (3, 1, 3, 2), (2, 4, 2, 2)], (2, 1, 1)),
    "groups": Case([(3, 3, 1, 4), (3, 3, 2, 6), (3, 3, 3, 4)], (1, 1, 1), groups=(2, 2, 2)),
    "depthwise": Case([(1, 1, 2, 4), (3, 3, 1, 8), (3, 3, 8, 2)], groups=(1, 4, 1)),
    "after depthwise": Case([(3, 3, 1, 4), (1, 1, 4, 3), (3, 3, 1, 6)], groups=(4, 1, 3)),
    "1-D": Case([(4, 2, 3), (3, 3, 2), (5, 2, 3)], (1, 2, 1)),
    "3-D": Case([(2, 3, 2, 1, 2), (1, 2, 3, 2, 2), (2, 2, 3, 2, 1)]),
}


def network(case: Case, seed: int = 0) -> tuple[Graph, dict[str, Array]]:
    """A chain of layers a, b, c."""
    rng = np.random.default_rng(seed)
    nodes = tuple(
        Layer(name, name, shape, groups, strides=stride, pool=pool)
        for name, shape, groups, stride, pool in zip(
            "abc", case.shapes, case.groups, case.strides, case.pools, strict=True
        )
    )
    kernels = {node.name: rng.standard_normal(node.shape) for node in nodes}
    return Graph(nodes, (Edge("a", "b"), Edge("b", "c"))), kernels


def circulant(node: Layer, kernel: Array, size: int) -> Array:
    """`[*positions, out, *positions, in]` of a circular convolution and the pooling after it."""
    *window, fan_in, outputs = kernel.shape
    axes, per_group = len(window), outputs // node.groups
    dense = np.zeros((*window, fan_in * node.groups, outputs))
    for group in range(node.groups):
        outs = slice(group * per_group, (group + 1) * per_group)
        ins = slice(group * fan_in, (group + 1) * fan_in)
        dense[..., ins, outs] = kernel[..., outs]
    full = (size // node.strides,) * axes
    matrix = np.zeros((*full, outputs, *(size,) * axes, node.in_size))
    for to in np.ndindex(*full):
        for tap in np.ndindex(*window):
            at = tuple((node.strides * q + t) % size for q, t in zip(to, tap, strict=True))
            matrix[(*to, slice(None), *at)] += dense[tap].T
    return matrix[(slice(None, None, node.pool),) * axes]


def brute(graph: Graph, kernels: dict[str, Array], gains: dict[str, Array] | None = None) -> Array:
    """`[*window, in / groups, out]`: the change for each weight of b, of one, over all outputs."""
    a, b, c = graph.layers
    gains = gains or {}
    step = a.strides * a.pool * b.strides * b.pool
    unit, axes = step * c.strides * c.pool, len(a.shape) - 2
    needed = max(a.shape[:-2]) - 1 + step * (max(c.shape[:-2]) - 1) + 1
    size = -(-needed // unit) * unit
    first = circulant(a, kernels["a"], size)
    first = first.reshape(-1, a.out_size, size**axes * a.in_size)  # [position, out, input]
    small = size // (a.strides * a.pool)
    last = circulant(c, kernels["c"], size // step)
    outputs = math.prod(last.shape[: axes + 1])
    last = last.reshape(outputs, -1, c.in_size)  # [output, position, in]
    first = first * gains.get("a", np.ones(a.out_size))[:, None]
    last = last * gains.get("b", np.ones(b.out_size))
    return changes(b, first, last, small) / np.sqrt(outputs / c.out_size)


def changes(b: Layer, first: Array, last: Array, small: int, side: int = 0) -> Array:
    """`||J_last E J_first||` for a matrix E that holds one weight of one at every position.

    Args:
      b: the layer.
      first: `[position, channel, input]` of all before.
      last: `[output, position, channel]` of all after.
      small: the side of the map that b reads.
      side: of the map that b makes, after pooling; 0: as large as the strides leave it.
    """
    *window, fan_in, outputs = b.shape
    step = b.strides * b.pool
    side = side or small // step
    found = np.zeros(b.shape)
    for tap in np.ndindex(*window):
        reads = [
            np.ravel_multi_index(
                tuple((step * q + t) % small for q, t in zip(to, tap, strict=True)),
                (small,) * len(window),
            )
            for to in np.ndindex(*(side,) * len(window))
        ]
        for channel, k in itertools.product(range(fan_in), range(outputs)):
            j = k // (outputs // b.groups) * fan_in + channel
            found[(*tap, channel, k)] = np.linalg.norm(last[:, :, k] @ first[reads, j])
    return found


@functools.partial(jax.jit, static_argnums=(0, 1))
def compiled(
    graph: Graph, rescale: bool, kernels: dict[str, jax.Array], masks: dict[str, jax.Array],
    gains: dict[str, jax.Array],
) -> jax.Array:  # fmt: skip
    """What the neighbours make of b, step by step as the loop of pruning does."""
    b = graph["b"]
    peaks = {name: peak(kernel, masks.get(name)) for name, kernel in kernels.items()}
    near = around(graph, b, gains, peaks)
    parts = {name: Part(kernel) for name, kernel in kernels.items()}
    calls = correlations(b, near, parts, masks)
    found = {place: correlated(how, *operands) for place, (how, operands) in calls.items()}
    scale = None if rescale else (near.near_in, near.near_out)
    gain = widen(gains.get("b", jnp.ones(1)))
    return pair_factors(b.groups, *both_sides(b, near, found), gain, scale)


def factors(
    graph: Graph, kernels: dict[str, Any], dtype: Any = np.float32, rescale: bool = False,
    masks: Any = None, gains: dict[str, Any] | None = None,
) -> Array:  # fmt: skip
    """`pair_factors` of b in the given dtype, in NumPy float64."""
    arrays = {name: jnp.asarray(kernel, dtype) for name, kernel in kernels.items() if name != "b"}
    norms = {name: jnp.asarray(a, dtype) for name, a in (gains or {}).items()}
    found = compiled(graph, rescale, arrays, masks or {}, norms)
    chex.assert_shape(found, graph["b"].shape[-2:])
    chex.assert_type(found, jnp.promote_types(dtype, jnp.float32))
    return np.asarray(found, np.float64)


def eq5(graph: Graph, kernels: dict[str, Array]) -> Array:
    """The product of norms, for layers without groups."""
    before = np.sqrt(np.square(kernels["a"]).sum(tuple(range(kernels["a"].ndim - 1))))
    axes = tuple(range(kernels["c"].ndim - 2))
    after = np.sqrt(np.square(kernels["c"]).sum((*axes, -1)))
    return before[:, None] * after


def lags_of(graph: Graph, kernels: dict[str, Array], masks: Any = None) -> tuple[Array, Array]:
    """`in_lags` of a and `out_lags` of c, once compiled."""

    def run(kernels: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        return (
            in_lags(graph["a"], kernels["a"], masks.get("a")),
            out_lags(graph.edges[1], graph["c"], kernels["c"], masks.get("c")),
        )

    arrays = {name: jnp.asarray(kernel, jnp.float32) for name, kernel in kernels.items()}
    before, after = jax.jit(run)(arrays, masks or {})
    return np.asarray(before), np.asarray(after)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_frobenius_change(name: str) -> None:
    graph, kernels = network(CASES[name])
    wanted = brute(graph, kernels)
    # All taps of a pair of channels change as much.
    flat = wanted.reshape(-1, *wanted.shape[-2:])
    np.testing.assert_allclose(flat, np.broadcast_to(flat[0], flat.shape), rtol=1e-12)
    np.testing.assert_allclose(factors(graph, kernels, np.float64), flat[0], rtol=1e-12)


@pytest.mark.parametrize("name", ["strides (1, 1, 1)", "groups", "3-D"])
def test_it_is_the_frobenius_change_in_float32_too(name: str) -> None:
    graph, kernels = network(CASES[name])
    wanted = brute(graph, kernels)
    flat = wanted.reshape(-1, *wanted.shape[-2:])
    np.testing.assert_allclose(factors(graph, kernels), flat[0], rtol=1e-5)


def test_gains_multiply_channels() -> None:
    graph, kernels = network(CASES["pool after"])
    gains = {"a": np.array([0.1, 3.0, 40.0]), "b": np.array([2.0, 0.3]), "c": np.array([5.0] * 3)}
    wanted = brute(graph, kernels, gains)[0, 0]
    np.testing.assert_allclose(factors(graph, kernels, gains=gains), wanted, rtol=1e-5)


@pytest.mark.parametrize("pool", [1, 2])
def test_a_flattened_map_has_lags_over_its_positions(pool: int) -> None:
    rng, side, size = np.random.default_rng(1), 3, 12
    a, b = Layer("a", "a", (3, 3, 2, 3)), Layer("b", "b", (3, 3, 3, 2), pool=pool)
    c = Layer("c", "c", (side * side * 5, 4))
    edges = (Edge("a", "b"), Edge("b", "c", positions=side * side, offset=3))
    graph = Graph((a, b, c), edges)
    kernels = {node.name: rng.standard_normal(node.shape) for node in graph.layers}
    first = circulant(a, kernels["a"], size).reshape(size * size, 3, -1)
    rows = kernels["c"].reshape(side * side, 5, 4)[:, 3:]  # The map is b's, [h, w, c].
    wanted = changes(b, first, rows.transpose(2, 0, 1), size, side)[0, 0]
    np.testing.assert_allclose(factors(graph, kernels), wanted, rtol=1e-5)


def test_eq5_differs_where_lags_overlap() -> None:
    graph, kernels = network(CASES["strides (1, 1, 1)"])
    ratio = eq5(graph, kernels) / brute(graph, kernels)[0, 0]
    assert ratio.max() / ratio.min() > 1.1
    kernels["a"][..., 0] = np.abs(kernels["a"][..., 0])  # A blur before a blur weighs more.
    kernels["c"][..., 0, :] = np.abs(kernels["c"][..., 0, :])
    wanted = brute(graph, kernels)[0, 0]
    ratio = eq5(graph, kernels) / wanted
    assert ratio.max() / ratio.min() > 1.5
    np.testing.assert_allclose(factors(graph, kernels), wanted, rtol=1e-5)


def test_lag_zero_is_eq5() -> None:
    graph, kernels = network(CASES["strides (1, 1, 1)"])
    before, after = lags_of(graph, kernels)
    chex.assert_shape(before, (3, 5, 5))
    chex.assert_shape(after, (2, 5, 5))
    product = np.sqrt(before[:, None, 2, 2] * after[:, 2, 2])
    np.testing.assert_allclose(product, eq5(graph, kernels), rtol=1e-5)
    chex.assert_trees_all_equal((before, after), (before[:, ::-1, ::-1], after[:, ::-1, ::-1]))


@pytest.mark.parametrize(
    "case",
    [
        Case([(3, 4), (4, 5), (5, 6)]),
        Case([(3, 3, 2, 3), (3, 3, 3, 2), (3, 3, 2, 3)], (1, 3, 1)),
        Case([(3, 3, 2, 3), (1, 1, 3, 2), (1, 1, 2, 3)]),
    ],
    ids=["dense", "lags outside the kernel", "1x1 next"],
)
def test_it_is_eq5_where_there_are_no_lags(case: Case) -> None:
    graph, kernels = network(case)
    np.testing.assert_allclose(factors(graph, kernels), eq5(graph, kernels), rtol=1e-5)


def test_without_neighbours_all_weights_count_the_same() -> None:
    node = Layer("b", "b", (3, 3, 2, 4))
    found = factors(Graph((node,), ()), {}, gains={"b": [1, 2, 3, 4]})
    chex.assert_trees_all_equal(found, np.broadcast_to([1.0, 2, 3, 4], (2, 4)))


def test_a_dense_layer_after_a_flatten_repeats_its_channels() -> None:
    shapes = [(3, 3, 2, 3), (18, 2), (2, 4)]
    nodes = tuple(Layer(name, name, shape) for name, shape in zip("abc", shapes, strict=True))
    graph = Graph(nodes, (Edge("a", "b", positions=6), Edge("b", "c")))
    _, kernels = network(Case(shapes))
    wanted = np.tile(eq5(graph, kernels), (6, 1))
    np.testing.assert_allclose(factors(graph, kernels), wanted, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_branches_add_up(scale: float) -> None:
    """Two previous layers of other strides and an identity; two next layers and an identity."""
    rng = np.random.default_rng(2)
    a, b, c = network(Case(THREE))[0].layers
    d, e = Layer("d", "d", (4, 4, 2, 3), strides=2), Layer("e", "e", (1, 1, 2, 5))
    kernels = {node.name: scale * rng.standard_normal(node.shape) for node in (a, c, d, e)}
    edges = [Edge("a", "b"), Edge("d", "b", scale=0.5), Edge(IDENTITY, "b")]
    edges += [Edge("b", "c"), Edge("b", "e", scale=3.0), Edge("b", IDENTITY)]
    one = {"a": Layer("a", "a", (1, 1, 3, 3)), "c": Layer("c", "c", (1, 1, 2, 2))}
    total = np.zeros((3, 2))
    for first, last in itertools.product((a, d, None), (c, e, None)):
        pair = {
            "a": np.eye(3)[None, None] if first is None else kernels[first.name],
            "c": np.eye(2)[None, None] if last is None else kernels[last.name],
        }
        weight = (0.5 if first is d else 1.0) * (3.0 if last is e else 1.0)
        total += np.square(
            weight * brute(Graph((first or one["a"], b, last or one["c"]), ()), pair)[0, 0]
        )
    found = factors(Graph((a, b, c, d, e), tuple(edges)), kernels)
    np.testing.assert_allclose(found, np.sqrt(total), rtol=1e-5)


def test_concatenated_channels_keep_their_place() -> None:
    """a (3 channels) and d (2) side by side into b; b at offset 1 of c's five inputs."""
    rng = np.random.default_rng(3)
    a, d = Layer("a", "a", (3, 3, 2, 3)), Layer("d", "d", (2, 2, 2, 2))
    b, c = Layer("b", "b", (3, 3, 5, 2)), Layer("c", "c", (3, 3, 5, 3))
    kernels = {node.name: rng.standard_normal(node.shape) for node in (a, b, c, d)}
    edges = (Edge("a", "b"), Edge("d", "b", offset=3), Edge("b", "c", offset=1))
    found = factors(Graph((a, b, c, d), edges), kernels)
    joined = np.zeros((3, 3, 2, 5))
    joined[..., :3], joined[:2, :2, :, 3:] = kernels["a"], kernels["d"]
    parts = {"a": joined, "c": kernels["c"][:, :, 1:3]}
    nodes = (Layer("a", "a", (3, 3, 2, 5)), b, Layer("c", "c", (3, 3, 2, 3)))
    np.testing.assert_allclose(found, brute(Graph(nodes, ()), parts)[0, 0], rtol=1e-5)


def test_masked_weights_do_not_count() -> None:
    graph, kernels = network(CASES["groups"])
    rng = np.random.default_rng(4)
    masks = {name: rng.random(kernels[name].shape) < 0.5 for name in "ac"}
    zeroed = kernels | {name: kernels[name] * masks[name] for name in "ac"}
    found = factors(graph, kernels, masks=masks)
    chex.assert_trees_all_equal(found, factors(graph, zeroed))
    np.testing.assert_allclose(found, brute(graph, zeroed)[0, 0], rtol=1e-5)
    chex.assert_trees_all_equal(lags_of(graph, kernels, masks), lags_of(graph, zeroed))


@pytest.mark.parametrize("scales", [(1e-8, 1e-8), (1e4, 1e4), (1e-8, 1e4), (1e-30, 1e-30)])
def test_scale_keeps_the_ratios(scales: tuple[float, float]) -> None:
    graph, kernels = network(CASES["strides (1, 2, 1)"])
    scaled = kernels | {"a": kernels["a"] * scales[0], "c": kernels["c"] * scales[1]}
    base, found = (factors(graph, each, rescale=True) for each in (kernels, scaled))
    ratio = found / base
    np.testing.assert_allclose(ratio, np.full_like(ratio, ratio[0, 0]), rtol=1e-5)
    if min(scales) > 1e-30:
        wanted = factors(graph, kernels) * math.prod(scales)
        np.testing.assert_allclose(factors(graph, scaled), wanted, rtol=1e-5)


def test_powers_of_two_change_no_bit_of_the_ratios() -> None:
    graph, kernels = network(CASES["strides (1, 1, 1)"])
    scaled = kernels | {"a": kernels["a"] * 2.0**-40, "c": kernels["c"] * 2.0**17}
    base, found = (factors(graph, each, rescale=True) for each in (kernels, scaled))
    chex.assert_trees_all_equal(found, base)
    ratio = factors(graph, kernels) / base
    assert (ratio == ratio[0, 0]).all()


def test_cancelling_kernels_give_no_nan() -> None:
    """A difference after a constant: only the border of the joint kernel is left."""
    graph, _ = network(Case([(9, 1, 1), (1, 1, 1), (2, 1, 1)]))
    kernels = {"a": np.full((9, 1, 1), 0.1), "c": np.array([0.1, -0.1]).reshape(2, 1, 1)}
    wanted = brute(graph, kernels)[0]
    np.testing.assert_allclose(factors(graph, kernels), wanted, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_kernels_are_widened(dtype: Any) -> None:
    graph, kernels = network(CASES["strides (1, 1, 1)"])
    rounded = {name: np.asarray(jnp.asarray(k, dtype), np.float64) for name, k in kernels.items()}
    np.testing.assert_allclose(
        factors(graph, kernels, dtype), brute(graph, rounded)[0, 0], rtol=1e-5
    )


def test_it_maps_over_stacked_kernels() -> None:
    case = CASES["5x2 3x1 2x4"]
    graph, _ = network(case)
    nets = [network(case, seed)[1] for seed in range(3)]
    stacked = {name: jnp.stack([jnp.asarray(net[name]) for net in nets]) for name in "ac"}
    run = jax.vmap(lambda kernels: compiled(graph, False, kernels, {}, {}))
    for row, kernels in zip(run(stacked), nets, strict=True):
        np.testing.assert_allclose(row, brute(graph, kernels)[0, 0], rtol=1e-5)


# ---------------------------------------------------------------- what cannot be read


def test_pairs_are_refused() -> None:
    graph, kernels = network(Case(THREE))
    edge = Edge("a", "b", pairs=Index(np.array([[0, 0]])))
    with refused("'a' feeds 'b' by pairs", "use lags=False"):
        factors(Graph(graph.layers, (edge,)), kernels)


def test_junctions_are_refused() -> None:
    graph, kernels = network(Case(THREE))
    for edge in (Edge("sum 3", "b"), Edge("b", "sum 3")):
        with refused("'sum 3' is not a layer", "use lags=False"):
            factors(Graph(graph.layers, (edge,)), kernels)


def test_a_map_that_is_not_square_is_refused_where_it_matters() -> None:
    a, b, c = Layer("a", "a", (3, 3, 2, 3)), Layer("b", "b", (3, 3, 3, 2)), Layer("c", "c", (12, 4))
    edges = (Edge("a", "b"), Edge("b", "c", positions=6))
    _, kernels = network(Case([a.shape, b.shape, c.shape]))
    with refused("'c' reads 6 positions of 'b'", "use lags=False"):
        factors(Graph((a, b, c), edges), kernels)
    with refused("'c' reads 6 positions"):
        out_lags(edges[1], c, jnp.asarray(kernels["c"]))
    pooled = Layer("b", "b", b.shape, pool=3)  # No lag but zero is left.
    found = factors(Graph((a, pooled, c), edges), kernels)
    after = np.sqrt(np.square(kernels["c"]).reshape(6, 2, 4).sum((0, 2)))
    before = np.sqrt(np.square(kernels["a"]).sum((0, 1, 2)))
    np.testing.assert_allclose(found, before[:, None] * after, rtol=1e-5)


def test_windows_of_other_axes_are_refused() -> None:
    graph, kernels = network(Case([(3, 2, 3), (3, 3, 3, 2), (2, 5)]))
    with refused("windows of 2 and 1 axes", "use lags=False"):
        factors(graph, kernels)

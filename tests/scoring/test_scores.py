"""Scores against the paper: Eq. 4 with explicit Jacobian matrices, Eq. 5 and 9 neuron by neuron."""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from lap_jax import METHODS, LayerSpec, Norm, chain, lookahead_scores
from tests import oracle
from tests.networks import WIDTHS, assert_close, mlp

SEEDS = st.integers(0, 2**31)
SHAPES = st.sampled_from([WIDTHS, (7, 1, 5), (9, 8), (1, 1, 1, 1)])
DIRECTIONS = {"LAP": "both", "LFP": "forward", "LBP": "backward"}


def assert_proportional(found: dict[str, jax.Array], wanted: Sequence[Any], rtol: float) -> None:
    """A convolution's weight acts at every position: a constant factor within the layer."""
    for scores, expected in zip(found.values(), wanted, strict=True):
        ratio = np.asarray(scores, np.float64) / expected
        np.testing.assert_allclose(ratio, np.full_like(ratio, ratio.flat[0]), rtol=rtol)


@pytest.mark.parametrize("method", DIRECTIONS)
@hypothesis.settings(max_examples=10)
@hypothesis.given(widths=SHAPES, seed=SEEDS)
def test_dense_scores_are_the_frobenius_change(
    method: Any, widths: tuple[int, ...], seed: int
) -> None:
    params = oracle.dense_tree(np.random.default_rng(seed), widths)
    wanted = oracle.chain_eq4(oracle.layers_of(params, list(params)), 1, DIRECTIONS[method])
    assert_close(lookahead_scores(params, list(params), method=method), wanted, 1e-5)


@hypothesis.settings(max_examples=12)
@hypothesis.given(widths=SHAPES, seed=SEEDS)
def test_dense_scores_are_the_frobenius_change_to_float64(
    widths: tuple[int, ...], seed: int
) -> None:
    params = oracle.dense_tree(np.random.default_rng(seed), widths, np.float64)
    wanted = oracle.chain_eq4(oracle.layers_of(params, list(params)))
    with jax.enable_x64(True):
        found = lookahead_scores(jax.tree.map(jnp.asarray, params), list(params))
        chex.assert_type(list(found.values()), jnp.float64)
        assert_close(found, wanted, 1e-11)


@pytest.mark.parametrize("method", DIRECTIONS)
@hypothesis.settings(max_examples=8)
@hypothesis.given(widths=SHAPES, seed=SEEDS)
def test_batch_norm_is_folded_in(method: Any, widths: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    params = oracle.dense_tree(rng, widths)
    names = list(params)
    norms, stats = oracle.norm_trees(rng, widths[1:])
    gains = [oracle.gain(norms, stats, name) for name in norms]
    wanted = oracle.chain_eq4(oracle.layers_of(params, names, gain=gains), 1, DIRECTIONS[method])
    declared = [entry for pair in zip(names, norms, strict=True) for entry in pair]
    found = lookahead_scores(params | norms, declared, method=method, batch_stats=stats)
    assert_close(found, wanted, 2e-5)


def conv_tree(rng: np.random.Generator, shapes: Sequence[tuple[int, ...]]) -> oracle.Tree:
    return {
        f"{'Dense' if len(shape) == 2 else 'Conv'}_{i}": {
            "kernel": rng.normal(size=shape).astype(np.float32),
            "bias": rng.normal(size=shape[-1]).astype(np.float32),
        }
        for i, shape in enumerate(shapes)
    }


# Kernels of one pixel on one side, or strides that step over the previous kernel: no two positions
# of a weight meet, so Eq. 4 is Eq. 5 up to a constant. (shapes, groups, strides, size of the map)
WITHOUT_OVERLAP: dict[str, tuple[Any, Any, Any, int]] = {
    "pointwise neighbours": ([(1, 1, 2, 3), (3, 3, 3, 4), (1, 1, 4, 2)], [1] * 3, [1] * 3, 4),
    "strides as wide as kernels": (
        [(2, 2, 2, 3), (2, 2, 3, 4), (2, 2, 4, 2)],
        [1] * 3,
        [2] * 3,
        8,
    ),
    "3x3 kernels, stride 2 twice": ([(3, 3, 2, 3), (3, 3, 3, 2), (8, 3)], [1] * 3, [2, 2, 1], 8),
    "flatten to dense": ([(1, 1, 3, 5), (80, 4), (4, 3)], [1] * 3, [1] * 3, 4),
    "depthwise": ([(1, 1, 2, 4), (3, 3, 1, 4), (1, 1, 4, 3)], [1, 4, 1], [1] * 3, 4),
    "depthwise with a multiplier": (
        [(1, 1, 2, 3), (3, 3, 1, 6), (1, 1, 6, 2)],
        [1, 3, 1],
        [1] * 3,
        4,
    ),
    "grouped neighbours": ([(1, 1, 2, 6), (2, 2, 3, 8), (1, 1, 2, 4)], [2, 2, 4], [1] * 3, 4),
}


@pytest.mark.parametrize("case", WITHOUT_OVERLAP)
@pytest.mark.parametrize("normed", [False, True], ids=["plain", "batch norm"])
def test_conv_scores_are_the_frobenius_change(case: str, normed: bool) -> None:
    shapes, groups, strides, grid = WITHOUT_OVERLAP[case]
    rng = np.random.default_rng(5)
    if groups[0] > 1:  # The first layer has nobody in front to tell its groups.
        shapes = [(*shapes[0][:2], 1, shapes[0][3]), *shapes[1:]]
    params = conv_tree(rng, shapes)
    names = list(params)
    declared: list[Any] = [
        LayerSpec(name, groups=n, strides=s)
        for name, n, s in zip(names, groups, strides, strict=True)
    ]
    stats: oracle.Tree | None = None
    gains: list[Any] = [None] * len(names)
    if normed:
        norms, stats = oracle.norm_trees(rng, [shape[-1] for shape in shapes])
        gains = [oracle.gain(norms, stats, name) for name in norms]
        params = params | norms
        declared = [entry for pair in zip(declared, norms, strict=True) for entry in pair]
    layers = oracle.layers_of(params, names, gain=gains, groups=groups, strides=strides)
    found = lookahead_scores(params, declared, batch_stats=stats)
    assert_proportional(found, oracle.chain_eq4(layers, grid), 3e-5)
    assert_close(found, oracle.chain_eq9(layers), 3e-5)


def test_flattened_dense_weights_read_their_own_channel() -> None:
    """Row r of the dense kernel belongs to channel r % channels; here every value is exact."""
    rng = np.random.default_rng(1)
    params = conv_tree(rng, [(2, 2, 3, 5), (4 * 4 * 5, 3)])
    norms, stats = oracle.norm_trees(rng, [5])
    found = lookahead_scores(
        params | norms, ["Conv_0", "BatchNorm_0", "Dense_1"], batch_stats=stats
    )
    conv, dense = (np.asarray(params[name]["kernel"], np.float64) for name in params)
    gain = np.abs(oracle.gain(norms, stats, "BatchNorm_0"))
    flow = np.sqrt((conv**2).sum((0, 1, 2))) * gain
    for row in range(dense.shape[0]):
        np.testing.assert_allclose(
            found["Dense_1"][row], np.abs(dense[row]) * flow[row % 5], rtol=1e-5
        )
    rows = (dense**2).sum(1)
    out = np.sqrt([sum(rows[r] for r in range(80) if r % 5 == channel) for channel in range(5)])
    np.testing.assert_allclose(found["Conv_0"], np.abs(conv) * gain * out, rtol=1e-5)


def test_absent_scale_counts_as_one() -> None:
    rng = np.random.default_rng(2)
    params = oracle.dense_tree(rng, WIDTHS[:3])
    _, stats = oracle.norm_trees(rng, [9])
    layers = oracle.layers_of(
        params, list(params), gain=[oracle.gain({}, stats, "BatchNorm_0"), None]
    )
    found = lookahead_scores(params, ["Dense_0", "BatchNorm_0", "Dense_1"], batch_stats=stats)
    assert_close(found, oracle.chain_eq9(layers), 1e-5)


def test_the_norms_own_epsilon_is_used() -> None:
    rng = np.random.default_rng(3)
    params = oracle.dense_tree(rng, WIDTHS[:3])
    norms, stats = oracle.norm_trees(rng, [9])
    stats["BatchNorm_0"]["var"][0] = 0.0  # A dead channel: epsilon is all there is.
    layers = oracle.layers_of(
        params, list(params), gain=[oracle.gain(norms, stats, "BatchNorm_0", 1e-3), None]
    )
    declared: list[Any] = ["Dense_0", Norm("BatchNorm_0", epsilon=1e-3), "Dense_1"]
    found = lookahead_scores(params | norms, declared, batch_stats=stats)
    assert_close(found, oracle.chain_eq9(layers), 1e-5)


def test_norm_without_statistics_is_its_scale_alone() -> None:
    rng = np.random.default_rng(4)
    params = oracle.dense_tree(rng, WIDTHS[:3])
    norms = {"LayerNorm_0": {"scale": rng.normal(size=9).astype(np.float32)}}
    layers = oracle.layers_of(
        params, list(params), gain=[norms["LayerNorm_0"]["scale"].astype(np.float64), None]
    )
    declared: list[Any] = ["Dense_0", Norm("LayerNorm_0", statistics=False), "Dense_1"]
    assert_close(lookahead_scores(params | norms, declared), oracle.chain_eq9(layers), 1e-5)


# ---------------------------------------------------------------- scores for their own sake


def test_magnitude_scores_are_the_absolute_weights() -> None:
    params = mlp()
    found = lookahead_scores(params, list(params), method="MP")
    chex.assert_trees_all_equal(found, {n: np.abs(params[n]["kernel"]) for n in params})


def test_a_lone_layer_is_scored_by_magnitude() -> None:
    """W_0 and W_2 are ones, with a single input and output: they change nothing."""
    params = mlp(widths=WIDTHS[:2])
    for method in DIRECTIONS:
        scores = lookahead_scores(params, ["Dense_0"], method=METHODS[method])["Dense_0"]
        np.testing.assert_allclose(scores, np.abs(params["Dense_0"]["kernel"]), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_scores_are_float32_whatever_the_weights(dtype: str) -> None:
    params = mlp()
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    found = lookahead_scores(params, list(params))
    chex.assert_type(list(found.values()), jnp.float32)
    assert_close(found, oracle.chain_eq9(oracle.layers_of(wide, list(wide))), 1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_small_half_precision_weights_do_not_underflow(dtype: str) -> None:
    """The square of 1e-4 is zero in float16: the norms must be taken in float32."""
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf * 1e-4, dtype), mlp())
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    found = lookahead_scores(params, list(params))
    assert_close(found, oracle.chain_eq9(oracle.layers_of(wide, list(wide))), 1e-5)


@pytest.mark.parametrize("scale", [1e-10, 1e10])
def test_scores_survive_extreme_scales(scale: float) -> None:
    """Products of squares would leave float32's range; products of norms do not."""
    params = mlp()
    params = jax.tree.map(lambda leaf: (leaf * scale).astype(np.float32), params)
    wanted = oracle.chain_eq9(oracle.layers_of(params, list(params)))
    assert_close(lookahead_scores(params, list(params)), wanted, 1e-5)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_graph_serves_as_well_as_its_declaration(transform: Callable[..., Any]) -> None:
    params = mlp()
    graph = chain(params, list(params))
    found = transform(lambda tree: lookahead_scores(tree, graph))(params)
    wanted = lookahead_scores(params, list(params))
    assert_close(found, [np.asarray(scores) for scores in wanted.values()], 1e-6)


def test_random_scores_take_a_key() -> None:
    params = mlp()
    one = lookahead_scores(params, list(params), method="RP", key=jax.random.key(0))
    same = lookahead_scores(params, list(params), method="RP", key=jax.random.key(0))
    other = lookahead_scores(params, list(params), method="RP", key=jax.random.key(1))
    chex.assert_trees_all_equal(one, same)
    for name in params:
        assert not (one[name] == other[name]).any()
        assert np.unique(one[name]).size == one[name].size

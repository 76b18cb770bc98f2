"""The nine methods' masks against the oracle; counts, ties, order; invariances; jit and vmap."""

from collections.abc import Callable
from typing import Any

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from lap_jax import (
    LayerSpec,
    Method,
    chain,
    lookahead_masks,
    lookahead_scores,
    paper_sparsity,
)
from tests import oracle
from tests.networks import (
    WIDTHS,
    Array,
    assert_kept,
    assert_masks,
    assert_same_kernels,
    conv_net,
    full_of,
    kernels,
    mlp,
    norms_of,
    refused,
    short_net,
    stack,
)
from tests.programs import Counting

DETERMINISTIC = list(oracle.METHODS)
NINE = ["MP", "RP", "LFP", "LBP", *DETERMINISTIC[3:]]
NAMES = list(mlp())
SIZES = [63, 72, 40]


def layers(params: oracle.Tree) -> list[oracle.Layer]:
    return oracle.layers_of(params, list(params))


def masks(params: Any, sparsity: Any = 0.6, **settings: Any) -> Any:
    """Of a network of dense layers in order."""
    return lookahead_masks(params, list(params), sparsity, **settings)


# ---------------------------------------------------------------- against the oracle


@pytest.mark.parametrize("method", DETERMINISTIC)
@pytest.mark.parametrize("sparsity", [0.3, 0.8, 0.95])
def test_dense_masks_equal_the_papers(method: str, sparsity: float) -> None:
    params = mlp(7)
    wanted = oracle.masks(layers(params), sparsity, oracle.METHODS[method])
    assert_masks(masks(params, sparsity, method=method), wanted, params)


def eq4_of_chain(layers: Any, i: int, direction: str) -> Any:
    return oracle.chain_eq4(layers, 1, direction)[i]


@pytest.mark.parametrize("method", ["LAP", "LFP", "LBP", "LAP-backward", "LAP-forward-seq"])
def test_dense_masks_equal_those_by_explicit_jacobians(method: str) -> None:
    params = mlp(8)
    wanted = oracle.masks(layers(params), 0.6, oracle.METHODS[method], eq4_of_chain)
    assert_masks(masks(params, method=method), wanted, params)


@pytest.mark.parametrize("method", DETERMINISTIC)
def test_conv_masks_with_batch_norm_equal_the_papers(method: Any) -> None:
    net = conv_net()
    levels = [0.2, 0.5, 0.75, 0.9, 0.4]
    found = lookahead_masks(net.params, net.declared, levels, method=method, batch_stats=net.stats)
    assert_masks(found, oracle.masks(net.layers, levels, oracle.METHODS[method]), net.names)


@hypothesis.settings(max_examples=10)
@hypothesis.given(
    widths=st.sampled_from([WIDTHS, (7, 1, 5), (9, 8), (1, 1, 1, 1)]),
    sparsity=st.floats(0, 0.99),
    direction=st.sampled_from(["both", "forward", "backward"]),
    order=st.sampled_from([None, "forward", "backward"]),
    steps=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_any_combination_equals_the_oracle(
    widths: tuple[int, ...],
    sparsity: float,
    direction: Any,
    order: Any,
    steps: int,
    seed: int,
) -> None:
    params = mlp(seed, widths, np.float64)
    choices: Any = ("lookahead", direction, order, steps)
    wanted = oracle.masks(layers(params), sparsity, oracle.Method(*choices))
    with jax.enable_x64(True):
        found = masks(jax.tree.map(jnp.asarray, params), sparsity, method=Method(*choices))
        assert_masks(found, wanted, params)


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
@pytest.mark.parametrize("name", ["LAP-forward-seq", "LAP-backward-seq", "LAP-forward"])
def test_steps_is_an_argument(name: str, steps: int) -> None:
    params = mlp(3)
    wanted = oracle.masks(layers(params), 0.85, oracle.METHODS[name]._replace(steps=steps))
    assert_masks(masks(params, 0.85, method=name, steps=steps), wanted, params)


def test_five_steps_are_the_default_of_the_sequential_methods() -> None:
    params = mlp(3)
    one, five, plain = (
        masks(params, 0.85, method="LAP-forward-seq", steps=steps) for steps in (1, 5, None)
    )
    assert_same_kernels(plain, five)
    assert_same_kernels(one, masks(params, 0.85, method="LAP-forward"))
    assert any(
        (a != b).any() for a, b in zip(kernels(one, params), kernels(five, params), strict=True)
    )


# ---------------------------------------------------------------- counts and levels


@pytest.mark.parametrize("method", NINE)
@pytest.mark.parametrize("sparsity", [0.0, 0.05, 0.5, 0.9375, 0.999])
def test_counts_are_exact(method: str, sparsity: float) -> None:
    found = masks(mlp(), sparsity, method=method, key=jax.random.key(0))
    assert_kept(found, [round((1 - sparsity) * size) for size in SIZES], NAMES)


def test_half_a_weight_is_rounded_to_even() -> None:
    """The FCN at tau 7: 392,000 / 128 = 3062.5 weights, of which 3062 stay."""
    params = mlp(widths=[784, 500, 500, 500, 500, 10])
    graph = chain(params, list(params))
    found = lookahead_masks(params, graph, paper_sparsity(graph, 7, q=0.5))
    assert_kept(found, [3062, 1953, 1953, 1953, round(0.75**7 * 5000)], params)


@pytest.mark.parametrize(
    ("sixteenths", "keep"), [(15, 0), (13, 2), (11, 2), (9, 4), (7, 4), (5, 6)]
)
def test_halves_go_to_the_even_count(sixteenths: int, keep: int) -> None:
    params = {"a": {"kernel": np.arange(1.0, 9, dtype=np.float32)[:, None]}}
    assert_kept(masks(params, sixteenths / 16), [keep], params)


@pytest.mark.parametrize(("size", "sparsity", "steps"), [(100, 0.415, 5), (250, 0.174, 3)])
def test_the_last_step_hits_the_count_exactly(size: int, sparsity: float, steps: int) -> None:
    """5 * 0.415 / 5 is not 0.415 in floating point, and 58.5 weights are near."""
    params = {"a": {"kernel": np.arange(1.0, size + 1, dtype=np.float32)[:, None]}}
    found = masks(params, sparsity, method="LAP-forward-seq", steps=steps)
    assert_kept(found, [round((1 - sparsity) * size)], params)


def test_counts_are_exact_beyond_float32() -> None:
    """20,015,000 weights: neighbouring counts are the same float32."""
    kernel = np.random.default_rng(0).random((5000, 4003), np.float32)
    found = masks({"a": {"kernel": kernel}}, 1e-6, method="MP")
    assert_kept(found, [round((1 - 1e-6) * kernel.size)], "a")


def test_each_layer_may_have_its_own_sparsity() -> None:
    params, levels = mlp(), [0.25, 0.5, 0.75]
    by_place = masks(params, levels)
    assert_kept(by_place, [round(0.75 * 63), 36, 10], params)
    assert_same_kernels(masks(params, dict(zip(params, levels, strict=True))), by_place)
    assert_same_kernels(masks(params, np.array(levels)), by_place)


def test_patterns_name_several_layers() -> None:
    net = conv_net()
    levels = {"Layer_[0-2]": 0.5, "Layer_3": 0.0, "*4": 0.9}
    found = lookahead_masks(net.params, net.declared, levels, batch_stats=net.stats)
    assert_kept(found, [36, 18, 24, 378, 6], net.names)


@pytest.mark.parametrize("method", ["MP", "RP", "LAP", "LAP-forward-seq"])
def test_nothing_is_removed_at_sparsity_zero(method: str) -> None:
    params = mlp()
    params["Dense_0"]["kernel"][:] = 0
    assert_kept(masks(params, 0.0, method=method, key=jax.random.key(0)), SIZES, params)


# ---------------------------------------------------------------- ties and what is dead


def first(mask: Array, keep: int) -> Array:
    return (np.arange(mask.size) < keep).reshape(mask.shape)


@pytest.mark.parametrize("value", [0.0, 0.5, -1.0])
@pytest.mark.parametrize("method", DETERMINISTIC)
def test_equal_weights_stay_by_position(method: str, value: float) -> None:
    params = full_of(value)
    found = masks(params, method=method)
    assert_masks(found, oracle.masks(layers(params), 0.6, oracle.METHODS[method]), params)
    if oracle.METHODS[method].order is None:
        for mask in kernels(found, params):
            np.testing.assert_array_equal(mask, first(mask, round(0.4 * mask.size)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_ties_across_signs_stay_by_position(dtype: str) -> None:
    weights = jnp.array([[3, -3, 1], [-3, 3, -1], [2, 2, -2]], dtype)
    found = masks({"a": {"kernel": weights}}, 4 / 9)
    assert_masks(found, [np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0]], bool)], "a")


@pytest.mark.parametrize("method", ["MP", "LAP", "LAP-forward-seq"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_dtype_gives_the_papers_masks(method: str, dtype: str) -> None:
    """bfloat16 has 8 bits: magnitudes tie by the dozen, and position decides."""
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), mlp(5))
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    wanted = oracle.masks(layers(wide), 0.7, oracle.METHODS[method])
    assert_masks(masks(params, 0.7, method=method), wanted, params)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", DETERMINISTIC)
def test_float64_is_told_apart_beyond_float32(method: str) -> None:
    params = jax.tree.map(lambda leaf: 1 + 1e-10 * leaf, mlp(6, dtype=np.float64))
    wanted = oracle.masks(layers(params), 0.5, oracle.METHODS[method])
    assert_masks(masks(jax.tree.map(jnp.asarray, params), 0.5, method=method), wanted, params)


@pytest.mark.parametrize("scale", [1e-20, 1e-8, 1e8, 1e20])
@pytest.mark.parametrize("method", ["LAP", "LAP-forward-seq"])
def test_masks_do_not_depend_on_the_scale_of_the_weights(method: str, scale: float) -> None:
    """Neither squares nor products of norms may leave float32's range."""
    scaled = jax.tree.map(lambda leaf: (leaf * scale).astype(np.float32), mlp())
    wanted = oracle.masks(layers(scaled), 0.6, oracle.METHODS[method])
    assert_masks(masks(scaled, method=method), wanted, scaled)


@pytest.mark.parametrize("name", ["LAP-forward-seq", "LAP-backward-seq"])
@pytest.mark.parametrize("dead", [False, True], ids=["alive", "dead"])
def test_what_is_pruned_stays_pruned(name: str, dead: bool) -> None:
    """Weights around dead neurons all score zero, as do pruned ones: those must not come back."""
    params = mlp(1)
    if dead:
        params["Dense_0"]["kernel"][:, 2:] = 0
        params["Dense_2"]["kernel"][1:, :] = 0
    earlier = [np.ones(mask.shape, bool) for mask in kernels(params, params)]
    for step in (1, 2, 3):
        # The first `step` of three steps are a run of `step` steps to that share of the sparsity.
        method = oracle.METHODS[name]._replace(steps=step)
        found = masks(params, step * 0.9 / 3, method=name, steps=step)
        assert_masks(found, oracle.masks(layers(params), step * 0.9 / 3, method), params)
        now = kernels(found, params)
        assert all((after <= before).all() for before, after in zip(earlier, now, strict=True))
        earlier = now


def test_zero_scores_outrank_what_is_pruned_already() -> None:
    """All scores are zero: each step takes the last of those still alive, never trades places."""
    found = masks(full_of(0.0), 0.5, method="LAP-backward-seq", steps=4)
    for mask in kernels(found, NAMES):
        np.testing.assert_array_equal(mask, first(mask, round(0.5 * mask.size)))


# ---------------------------------------------------------------- what must not change the masks

LOOKING = ["LAP", "LFP", "LBP", "LAP-forward", "LAP-backward", "LAP-backward-seq"]


def with_kernels(params: oracle.Tree, weights: list[Any]) -> oracle.Tree:
    return {
        name: params[name] | {"kernel": np.asarray(kernel, np.float32)}
        for name, kernel in zip(params, weights, strict=True)
    }


@pytest.mark.parametrize("method", LOOKING)
@pytest.mark.parametrize("factors", [(0.25, 1, 8), (3.7, 0.011, 190)])
def test_scaling_whole_layers_changes_no_mask(method: str, factors: tuple[float, ...]) -> None:
    params = mlp()
    scaled = [w * np.float32(a) for w, a in zip(kernels(params, params), factors, strict=True)]
    before, after = (masks(p, method=method) for p in (params, with_kernels(params, scaled)))
    assert_same_kernels(after, before)


@pytest.mark.parametrize("method", ["MP", *LOOKING])
def test_permuting_hidden_neurons_permutes_the_masks(method: str) -> None:
    rng = np.random.default_rng(1)
    one, two = rng.permutation(9), rng.permutation(8)

    def moved(weights: list[Array]) -> list[Array]:
        a, b, c = weights
        return [a[:, one], b[one][:, two], c[two]]

    params = mlp()
    after = masks(with_kernels(params, moved(kernels(params, params))), method=method)
    assert_masks(after, moved(kernels(masks(params, method=method), params)), params)


def rescaled(params: oracle.Tree) -> oracle.Tree:
    """The same function: a positive diagonal moved across every hidden neuron."""
    rng = np.random.default_rng(2)
    weights = [kernel.astype(np.float64) for kernel in kernels(params, params)]
    for i in range(len(weights) - 1):
        diagonal = np.exp(rng.normal(size=weights[i].shape[1]))
        weights[i] = weights[i] * diagonal
        weights[i + 1] = weights[i + 1] / diagonal[:, None]
    return with_kernels(params, weights)


def test_the_middle_layer_of_three_is_invariant_to_rescaling_neurons() -> None:
    params = mlp()
    scores, again = (
        lookahead_scores(tree, NAMES)["Dense_1"] for tree in (params, rescaled(params))
    )
    np.testing.assert_allclose(again, scores, rtol=1e-5)
    middle = [masks(tree)["Dense_1"]["kernel"] for tree in (params, rescaled(params))]
    chex.assert_trees_all_equal(*middle)


def test_magnitude_has_no_such_invariance() -> None:
    middle = [masks(tree, method="MP")["Dense_1"]["kernel"] for tree in (mlp(), rescaled(mlp()))]
    assert (middle[0] != middle[1]).any()


def test_a_deeper_net_is_not_invariant_to_rescaling_every_neuron() -> None:
    """Lookahead sees one layer each way: the far ends of its neighbours are someone else's."""
    params = mlp(widths=[7, 9, 8, 9, 8])
    before, after = masks(params), masks(rescaled(params))
    for name in ("Dense_1", "Dense_2"):
        assert (before[name]["kernel"] != after[name]["kernel"]).any()


def test_signs_and_biases_do_not_matter() -> None:
    params = mlp()
    flipped = {
        name: {"kernel": np.abs(layer["kernel"]), "bias": layer["bias"] * 100}
        for name, layer in params.items()
    }
    for method in LOOKING:
        assert_same_kernels(masks(flipped, method=method), masks(params, method=method))


def test_inputs_are_left_untouched() -> None:
    params = mlp()
    copy = jax.tree.map(np.copy, params)
    masks(params, method="LAP-forward-seq")
    chex.assert_trees_all_equal(params, copy)


# ---------------------------------------------------------------- random pruning


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_random_masks_nest_for_the_same_key(make: Callable[[int], jax.Array]) -> None:
    params = mlp(widths=[40, 40, 40])
    last = [np.ones((40, 40), bool)] * 2
    for sparsity in (0.1, 0.35, 0.5, 0.8, 0.99):
        now = kernels(masks(params, sparsity, method="RP", key=make(3)), params)
        assert all((higher <= lower).all() for lower, higher in zip(last, now, strict=True))
        last = now


def test_random_masks_differ_between_layers_and_keys() -> None:
    params = mlp(widths=[40, 40, 40])
    one, two = (
        kernels(masks(params, 0.5, method="RP", key=jax.random.key(seed)), params)
        for seed in (0, 1)
    )
    for a, b in ((one[0], one[1]), (one[0], two[0]), (one[1], two[1])):
        assert 0.4 < (a == b).mean() < 0.6


def test_random_masks_ignore_the_weights_and_are_uniform() -> None:
    params = mlp()
    graph = chain(params, NAMES)
    keys = jax.random.split(jax.random.key(0), 2000)
    found = jax.vmap(lambda key: lookahead_masks(params, graph, 0.7, method="RP", key=key))(keys)
    for mask in kernels(found, NAMES):
        keep = round(0.3 * mask[0].size)
        assert (mask.sum((1, 2)) == keep).all()
        rate = keep / mask[0].size
        spread = np.sqrt(rate * (1 - rate) / 2000)
        assert np.abs(mask.mean(0) - rate).max() < 4.5 * spread


# ---------------------------------------------------------------- transformations


@pytest.mark.parametrize(
    ("method", "dtype"),
    [*((name, "float32") for name in NINE), ("LAP", "bfloat16"), ("LAP", "float16")],
)
def test_masks_under_jit_equal_those_without(method: Any, dtype: str) -> None:
    net = short_net(2)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), net.params)

    def masks(tree: Any, statistics: Any) -> Any:
        return lookahead_masks(
            tree, net.declared, 0.8, method=method, batch_stats=statistics, key=jax.random.key(0)
        )

    chex.assert_trees_all_equal(jax.jit(masks)(params, net.stats), masks(params, net.stats))


@pytest.mark.parametrize(
    "method",
    ["MP", "LAP", *(pytest.param(name, marks=pytest.mark.slow) for name in
                    ("RP", "LAP-forward", "LAP-backward", "LAP-backward-seq"))],
)  # fmt: skip
def test_masks_under_vmap_equal_those_one_by_one(method: Any) -> None:
    nets = [short_net(seed) for seed in range(3)]

    def masks(tree: Any, statistics: Any) -> Any:
        return lookahead_masks(
            tree, nets[0].declared, 0.8, method=method, batch_stats=statistics,
            key=jax.random.key(0),
        )  # fmt: skip

    together = jax.vmap(masks)(*(stack(net[i] for net in nets) for i in (0, 1)))
    alone = stack(masks(net.params, net.stats) for net in nets)
    assert_masks(together, kernels(alone, nets[0].names), nets[0].names)


def test_a_jitted_call_is_one_program(count_compilations: Counting) -> None:
    params = jax.tree.map(jnp.asarray, mlp())
    with count_compilations() as compiled:
        jax.jit(masks)(params)
    assert len(compiled) == 1


# ---------------------------------------------------------------- graphs and scores


def test_the_scores_explain_the_mask() -> None:
    net = conv_net(4)
    scores = lookahead_scores(net.params, net.declared, batch_stats=net.stats)
    found = lookahead_masks(net.params, net.declared, 0.7, batch_stats=net.stats)
    for name, values in scores.items():
        mask = np.asarray(found[name]["kernel"])
        assert np.asarray(values)[mask].min() >= np.asarray(values)[~mask].max()


def test_a_residual_graph_is_pruned_in_order() -> None:
    """a feeds b and c, c reads a + b: forward order prunes a, then b on the pruned a, then c."""
    rng = np.random.default_rng(0)
    params = {
        name: {"kernel": rng.normal(size=shape).astype(np.float32)}
        for name, shape in {"a": (7, 9), "b": (9, 9), "c": (9, 8)}.items()
    }
    declared: list[Any] = ["a", "b", LayerSpec("c", previous=("a", "b"))]
    found = lookahead_masks(params, declared, 0.5, method="LAP-forward")
    a, b, c = (np.asarray(params[name]["kernel"], np.float64) for name in "abc")
    mask_a = oracle.keep_best(np.abs(a) * np.sqrt((b**2).sum(1) + (c**2).sum(1)), 32)
    into_b = np.sqrt(((a * mask_a) ** 2).sum(0))
    mask_b = oracle.keep_best(np.abs(b) * into_b[:, None] * np.sqrt((c**2).sum(1)), 40)
    into_c = np.sqrt(((a * mask_a) ** 2).sum(0) + ((b * mask_b) ** 2).sum(0))
    mask_c = oracle.keep_best(np.abs(c) * into_c[:, None], 36)
    assert_masks(found, [mask_a, mask_b, mask_c], params)


@pytest.mark.parametrize("call", [lookahead_masks, lookahead_scores])
def test_batch_norm_without_statistics(call: Any) -> None:
    norms, stats = norms_of(9)
    declared = ["Dense_0", "BatchNorm_0", "Dense_1"]
    arguments = (0.5,) if call is lookahead_masks else ()
    with refused("BatchNorm_0", "Dense_0", "batch_stats"):
        call(mlp() | norms, declared, *arguments)
    with refused("BatchNorm_0", "Dense_0", "batch_stats"):
        call(mlp() | norms, declared, *arguments, batch_stats={"BatchNorm_7": stats["BatchNorm_0"]})

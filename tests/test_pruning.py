"""The nine methods' masks against the oracle; counts, ties, order; jit, vmap, devices."""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lap_jax import (
    METHODS,
    Layer,
    Method,
    PruningError,
    chain,
    lookahead_masks,
    lookahead_scores,
    paper_sparsity,
)
from tests import oracle

DETERMINISTIC = list(oracle.METHODS)
NINE = ["MP", "RP", "LFP", "LBP", *DETERMINISTIC[3:]]
FLOATS = ["float32", "bfloat16", "float16"]
WIDTHS = [7, 9, 8, 5]  # The same in many tests, which then share what XLA has compiled.
Counter = Callable[[], AbstractContextManager[list[str]]]


def kernels(tree: Any, names: Any) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(tree[name]["kernel"]) for name in names]


def assert_masks(found: Any, wanted: Any, names: Any) -> None:
    for name, mask, expected in zip(names, kernels(found, names), wanted, strict=True):
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, expected, err_msg=name)


def test_the_methods_are_the_papers_nine() -> None:
    assert list(METHODS) == NINE
    for name, method in oracle.METHODS.items():
        found = METHODS[name]
        assert (found.score, found.order, found.steps) == method[:1] + method[2:]
        if method.score == "lookahead":
            assert found.direction == method.direction
    assert METHODS["RP"].score == "random"


# ---------------------------------------------------------------- against the oracle


@pytest.mark.parametrize("method", DETERMINISTIC)
@pytest.mark.parametrize("sparsity", [0.3, 0.8, 0.95])
def test_dense_masks_equal_the_papers(method: str, sparsity: float) -> None:
    params = oracle.dense_tree(np.random.default_rng(7), WIDTHS)
    layers = oracle.layers_of(params, list(params))
    found = lookahead_masks(params, list(params), sparsity, method=method)
    assert_masks(found, oracle.masks(layers, sparsity, oracle.METHODS[method]), list(params))


def eq4_of_chain(layers: Any, i: int, direction: str) -> Any:
    return oracle.chain_eq4(layers, 1, direction)[i]


@pytest.mark.parametrize("method", ["LAP", "LFP", "LBP", "LAP-backward", "LAP-forward-seq"])
def test_dense_masks_equal_those_by_explicit_jacobians(method: str) -> None:
    params = oracle.dense_tree(np.random.default_rng(8), [4, 6, 5, 3])
    layers = oracle.layers_of(params, list(params))
    found = lookahead_masks(params, list(params), 0.6, method=method)
    wanted = oracle.masks(layers, 0.6, oracle.METHODS[method], eq4_of_chain)
    assert_masks(found, wanted, list(params))


def conv_net(seed: int = 0) -> tuple[oracle.Tree, oracle.Tree, list[Any], list[oracle.Layer]]:
    """Conv, depthwise, grouped conv, flatten, two dense layers; batch norms with both signs."""
    shapes = [(3, 3, 2, 4), (3, 3, 1, 4), (2, 2, 2, 6), (3 * 3 * 6, 7), (7, 3)]
    groups = [1, 4, 2, 1, 1]
    return net(seed, shapes, groups)


def short_net(seed: int = 0) -> tuple[oracle.Tree, oracle.Tree, list[Any], list[oracle.Layer]]:
    """Grouped conv, flatten, two dense layers."""
    return net(seed, [(2, 2, 2, 6), (2 * 2 * 6, 7), (7, 3)], [2, 1, 1])


def net(seed: int, shapes: list[Any], groups: list[int]) -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(seed)
    params: oracle.Tree = {
        f"Layer_{i}": {"kernel": rng.normal(size=shape).astype(np.float32)}
        for i, shape in enumerate(shapes)
    }
    names = list(params)
    norms, stats = oracle.norm_trees(rng, [shape[-1] for shape in shapes[:-1]])
    gains = [oracle.gain(norms, stats, name) for name in norms] + [None]
    layers = oracle.layers_of(params, names, gain=gains, groups=groups)
    declared: list[Any] = []
    for i, name in enumerate(names):
        declared += [Layer(name, groups=groups[i]), *list(norms)[i : i + 1]]
    return params | norms, stats, declared, layers


@pytest.mark.parametrize("method", DETERMINISTIC)
def test_conv_masks_with_batch_norm_equal_the_papers(method: str) -> None:
    params, stats, declared, layers = conv_net()
    levels = [0.2, 0.5, 0.75, 0.9, 0.4]
    found = lookahead_masks(params, declared, levels, method=method, batch_stats=stats)
    wanted = oracle.masks(layers, levels, oracle.METHODS[method])
    assert_masks(found, wanted, [f"Layer_{i}" for i in range(5)])


@hypothesis.settings(max_examples=10)
@hypothesis.given(
    widths=st.lists(st.integers(1, 8), min_size=2, max_size=4),
    sparsity=st.floats(0, 0.99),
    direction=st.sampled_from(["both", "forward", "backward"]),
    order=st.sampled_from([None, "forward", "backward"]),
    steps=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_any_combination_equals_the_oracle(
    widths: list[int], sparsity: float, direction: str, order: str | None, steps: int, seed: int
) -> None:
    params = oracle.dense_tree(np.random.default_rng(seed), widths, np.float64)
    names = list(params)
    wanted = oracle.masks(
        oracle.layers_of(params, names),
        sparsity,
        oracle.Method("lookahead", direction, order, steps),
    )
    with jax.enable_x64(True):
        method: Any = Method("lookahead", direction, order, steps)  # type: ignore[arg-type]
        found = lookahead_masks(jax.tree.map(jnp.asarray, params), names, sparsity, method=method)
        assert_masks(found, wanted, names)


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
@pytest.mark.parametrize("name", ["LAP-forward-seq", "LAP-backward-seq", "LAP-forward"])
def test_steps_is_an_argument(name: str, steps: int) -> None:
    params = oracle.dense_tree(np.random.default_rng(3), WIDTHS)
    layers = oracle.layers_of(params, list(params))
    wanted = oracle.masks(layers, 0.85, oracle.METHODS[name]._replace(steps=steps))
    found = lookahead_masks(params, list(params), 0.85, method=name, steps=steps)
    assert_masks(found, wanted, list(params))


def test_five_steps_are_the_default_of_the_sequential_methods() -> None:
    params = oracle.dense_tree(np.random.default_rng(3), WIDTHS)
    one, five, plain = (
        lookahead_masks(params, list(params), 0.85, method="LAP-forward-seq", steps=steps)
        for steps in (1, 5, None)
    )
    assert_masks(plain, kernels(five, params), params)
    ordered = lookahead_masks(params, list(params), 0.85, method="LAP-forward")
    assert_masks(one, kernels(ordered, params), params)
    assert any(
        (a != b).any() for a, b in zip(kernels(one, params), kernels(five, params), strict=True)
    )


# ---------------------------------------------------------------- counts and levels


@pytest.mark.parametrize("method", NINE)
@pytest.mark.parametrize("sparsity", [0.0, 0.05, 0.5, 0.9375, 0.999])
def test_counts_are_exact(method: str, sparsity: float) -> None:
    params = oracle.dense_tree(np.random.default_rng(0), WIDTHS)
    found = lookahead_masks(params, list(params), sparsity, method=method, key=jax.random.key(0))
    for mask in kernels(found, params):
        assert mask.sum() == round((1 - sparsity) * mask.size)


def test_half_a_weight_is_rounded_to_even() -> None:
    """The FCN at tau 7: 392,000 / 128 = 3062.5 weights, of which 3062 stay."""
    params = oracle.dense_tree(np.random.default_rng(0), [784, 500, 500, 500, 500, 10])
    graph = chain(params, list(params))
    masks = lookahead_masks(params, graph, paper_sparsity(graph, 7, q=0.5))
    counts = [int(mask.sum()) for mask in kernels(masks, params)]
    assert counts == [3062, 1953, 1953, 1953, round(0.75**7 * 5000)]


@pytest.mark.parametrize(("size", "sparsity", "steps"), [(100, 0.415, 5), (250, 0.174, 3)])
def test_the_last_step_hits_the_count_exactly(size: int, sparsity: float, steps: int) -> None:
    """5 * 0.415 / 5 is not 0.415 in floating point, and 58.5 weights are near."""
    params = {"a": {"kernel": np.arange(1.0, size + 1, dtype=np.float32)[:, None]}}
    found = lookahead_masks(params, ["a"], sparsity, method="LAP-forward-seq", steps=steps)
    assert int(found["a"]["kernel"].sum()) == round((1 - sparsity) * size)


def test_counts_are_exact_beyond_float32() -> None:
    """20,015,000 weights: neighbouring counts are the same float32."""
    kernel = np.random.default_rng(0).random((5000, 4003), np.float32)
    found = lookahead_masks({"a": {"kernel": kernel}}, ["a"], 1e-6, method="MP")
    assert int(np.count_nonzero(found["a"]["kernel"])) == round((1 - 1e-6) * kernel.size)


@pytest.mark.parametrize(("size", "keep"), [(1, 0), (3, 2), (5, 2), (7, 4), (9, 4)])
def test_halves_go_to_the_even_count(size: int, keep: int) -> None:
    params = {"a": {"kernel": jnp.arange(1.0, size + 1)[:, None]}}
    assert int(lookahead_masks(params, ["a"], 0.5)["a"]["kernel"].sum()) == keep


def test_each_layer_may_have_its_own_sparsity() -> None:
    params = oracle.dense_tree(np.random.default_rng(0), [8, 10, 12, 4])
    levels = [0.25, 0.5, 0.75]
    by_place = lookahead_masks(params, list(params), levels)
    by_name = lookahead_masks(params, list(params), dict(zip(params, levels, strict=True)))
    by_array = lookahead_masks(params, list(params), np.array(levels))
    counts = [mask.sum() for mask in kernels(by_place, params)]
    assert counts == [60, 60, 12]
    assert_masks(by_name, kernels(by_place, params), params)
    assert_masks(by_array, kernels(by_place, params), params)


def test_patterns_name_several_layers() -> None:
    params, stats, declared, _ = conv_net()
    levels = {"Layer_[0-2]": 0.5, "Layer_3": 0.0, "*4": 0.9}
    found = lookahead_masks(params, declared, levels, batch_stats=stats)
    left = [mask.mean() for mask in kernels(found, [f"Layer_{i}" for i in range(5)])]
    np.testing.assert_allclose(left, [0.5, 0.5, 0.5, 1.0, 2 / 21])


@pytest.mark.parametrize("method", ["MP", "RP", "LAP", "LAP-forward-seq"])
def test_nothing_is_removed_at_sparsity_zero(method: str) -> None:
    params = oracle.dense_tree(np.random.default_rng(0), WIDTHS)
    params["Dense_0"]["kernel"][:] = 0
    found = lookahead_masks(params, list(params), 0.0, method=method, key=jax.random.key(0))
    assert all(mask.all() for mask in kernels(found, params))


# ---------------------------------------------------------------- ties and what is dead


def first(shape: tuple[int, ...], keep: int) -> Any:
    return (np.arange(np.prod(shape)) < keep).reshape(shape)


@pytest.mark.parametrize("value", [0.0, 0.5, -1.0])
@pytest.mark.parametrize("method", DETERMINISTIC)
def test_equal_weights_stay_by_position(method: str, value: float) -> None:
    params = {
        f"Dense_{i}": {"kernel": np.full(shape, value, np.float32)}
        for i, shape in enumerate(itertools.pairwise(WIDTHS))
    }
    wanted = oracle.masks(oracle.layers_of(params, list(params)), 0.6, oracle.METHODS[method])
    found = lookahead_masks(params, list(params), 0.6, method=method)
    assert_masks(found, wanted, params)
    if oracle.METHODS[method].order is None:
        for mask in kernels(found, params):
            np.testing.assert_array_equal(mask, first(mask.shape, round(0.4 * mask.size)))


@pytest.mark.parametrize("dtype", FLOATS)
def test_ties_across_signs_stay_by_position(dtype: str) -> None:
    weights = jnp.array([[3, -3, 1], [-3, 3, -1], [2, 2, -2]], dtype)
    mask = lookahead_masks({"a": {"kernel": weights}}, ["a"], 4 / 9)["a"]["kernel"]
    np.testing.assert_array_equal(mask, [[1, 1, 0], [1, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize("method", ["MP", "LAP", "LAP-forward-seq"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_dtype_gives_the_papers_masks(method: str, dtype: str) -> None:
    """bfloat16 has 8 bits: magnitudes tie by the dozen, and position decides."""
    params = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype),
        oracle.dense_tree(np.random.default_rng(5), WIDTHS),
    )
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    wanted = oracle.masks(oracle.layers_of(wide, list(wide)), 0.7, oracle.METHODS[method])
    assert_masks(lookahead_masks(params, list(params), 0.7, method=method), wanted, params)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", DETERMINISTIC)
def test_float64_is_told_apart_beyond_float32(method: str) -> None:
    rng = np.random.default_rng(6)
    params = {
        f"Dense_{i}": {"kernel": 1 + 1e-10 * rng.normal(size=shape)}
        for i, shape in enumerate([(6, 8), (8, 7), (7, 3)])
    }
    wanted = oracle.masks(oracle.layers_of(params, list(params)), 0.5, oracle.METHODS[method])
    found = lookahead_masks(jax.tree.map(jnp.asarray, params), list(params), 0.5, method=method)
    assert_masks(found, wanted, params)


@pytest.mark.parametrize("scale", [1e-20, 1e-8, 1e8, 1e20])
@pytest.mark.parametrize("method", ["LAP", "LAP-forward-seq"])
def test_masks_do_not_depend_on_the_scale_of_the_weights(method: str, scale: float) -> None:
    """Neither squares nor products of norms may leave float32's range."""
    params = oracle.dense_tree(np.random.default_rng(0), WIDTHS)
    scaled = jax.tree.map(lambda leaf: (leaf * scale).astype(np.float32), params)
    wanted = oracle.masks(oracle.layers_of(scaled, list(params)), 0.6, oracle.METHODS[method])
    assert_masks(lookahead_masks(scaled, list(params), 0.6, method=method), wanted, params)


@pytest.mark.parametrize("name", ["LAP-forward-seq", "LAP-backward-seq"])
@pytest.mark.parametrize("dead", ["dead", "alive"])
def test_what_is_pruned_stays_pruned(name: str, dead: str) -> None:
    """Weights around dead neurons all score zero, as do pruned ones: those must not come back."""
    params = oracle.dense_tree(np.random.default_rng(1), WIDTHS)
    if dead == "dead":
        params["Dense_0"]["kernel"][:, 2:] = 0
        params["Dense_2"]["kernel"][1:, :] = 0
    layers = oracle.layers_of(params, list(params))
    earlier: list[Any] | None = None
    for step in (1, 2, 3):
        # The first `step` of three steps are a run of `step` steps to that share of the sparsity.
        method = oracle.METHODS[name]._replace(steps=step)
        found = lookahead_masks(params, list(params), step * 0.9 / 3, method=name, steps=step)
        assert_masks(found, oracle.masks(layers, step * 0.9 / 3, method), params)
        masks = kernels(found, params)
        if earlier is not None:
            for before, after in zip(earlier, masks, strict=True):
                assert not (after & ~before).any()
        earlier = masks


def test_zero_scores_outrank_what_is_pruned_already() -> None:
    """All scores are zero: each step takes the last of those still alive, never trades places."""
    params = {"a": {"kernel": jnp.zeros((4, 5))}, "b": {"kernel": jnp.zeros((5, 4))}}
    found = lookahead_masks(params, ["a", "b"], 0.5, method="LAP-backward-seq", steps=4)
    for mask in kernels(found, params):
        np.testing.assert_array_equal(mask, first(mask.shape, 10))


# ---------------------------------------------------------------- random pruning


def big_pair() -> oracle.Tree:
    return oracle.dense_tree(np.random.default_rng(0), [40, 40, 40])


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_random_masks_nest_for_the_same_key(make: Callable[[int], jax.Array]) -> None:
    params = big_pair()
    last: list[Any] = [np.ones((40, 40), bool)] * 2
    for sparsity in (0.1, 0.35, 0.5, 0.8, 0.99):
        found = lookahead_masks(params, list(params), sparsity, method="RP", key=make(3))
        masks = kernels(found, params)
        for lower, higher in zip(last, masks, strict=True):
            assert (higher <= lower).all()
        last = masks


def test_random_masks_differ_between_layers_and_keys() -> None:
    params = big_pair()
    one = kernels(
        lookahead_masks(params, list(params), 0.5, method="RP", key=jax.random.key(0)), params
    )
    two = kernels(
        lookahead_masks(params, list(params), 0.5, method="RP", key=jax.random.key(1)), params
    )
    for a, b in ((one[0], one[1]), (one[0], two[0]), (one[1], two[1])):
        assert 0.4 < (a == b).mean() < 0.6


def test_random_masks_ignore_the_weights_and_are_uniform() -> None:
    params = oracle.dense_tree(np.random.default_rng(0), [5, 6, 4])
    graph = chain(params, list(params))
    keys = jax.random.split(jax.random.key(0), 2000)
    found = jax.vmap(lambda key: lookahead_masks(params, graph, 0.7, method="RP", key=key))(keys)
    for mask in kernels(found, params):
        assert (mask.sum((1, 2)) == round(0.3 * mask[0].size)).all()
        rate = round(0.3 * mask[0].size) / mask[0].size
        spread = np.sqrt(rate * (1 - rate) / 2000)
        assert np.abs(mask.mean(0) - rate).max() < 4.5 * spread


# ---------------------------------------------------------------- transformations


@pytest.mark.parametrize(
    ("method", "dtype"),
    [*((name, "float32") for name in NINE), ("LAP", "bfloat16"), ("LAP", "float16")],
)
def test_masks_under_jit_equal_those_without(method: str, dtype: str) -> None:
    params, stats, declared, _ = short_net(2)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)

    def masks(tree: Any, statistics: Any) -> Any:
        return lookahead_masks(
            tree, declared, 0.8, method=method, batch_stats=statistics, key=jax.random.key(0)
        )

    plain, jitted = masks(params, stats), jax.jit(masks)(params, stats)
    assert jax.tree.structure(plain) == jax.tree.structure(jitted)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), plain, jitted))


@pytest.mark.parametrize("method", NINE)
def test_masks_under_vmap_equal_those_one_by_one(method: str) -> None:
    nets = [short_net(seed) for seed in range(3)]
    declared = nets[0][2]
    params, stats = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *(net[i] for net in nets)) for i in (0, 1)
    )

    def masks(tree: Any, statistics: Any) -> Any:
        return lookahead_masks(
            tree, declared, 0.8, method=method, batch_stats=statistics, key=jax.random.key(0)
        )

    together = jax.vmap(masks)(params, stats)
    for i, (single, statistics, _, _) in enumerate(nets):
        alone = masks(single, statistics)
        for name in (f"Layer_{j}" for j in range(3)):
            np.testing.assert_array_equal(together[name]["kernel"][i], alone[name]["kernel"])


@pytest.mark.parametrize("spec", [("x", None), (None, "x")], ids=["rows", "columns"])
@pytest.mark.parametrize("method", ["MP", "LAP-backward-seq"])
def test_sharded_parameters_give_the_same_masks(method: str, spec: tuple[Any, Any]) -> None:
    devices = jax.devices("cpu")
    assert len(devices) >= 8
    mesh = Mesh(np.array(devices[:8]), ("x",))
    params = oracle.dense_tree(np.random.default_rng(4), [16, 24, 32, 8])
    params["Dense_1"]["kernel"][:, 5] = 1.0  # Ties, spread over devices.
    for layer in params.values():
        del layer["bias"]
    placed = jax.device_put(params, NamedSharding(mesh, PartitionSpec(*spec)))
    graph = chain(params, list(params))

    def masks(tree: Any) -> Any:
        return lookahead_masks(tree, graph, 0.83, method=method)

    wanted = kernels(masks(params), params)
    assert_masks(jax.jit(masks)(placed), wanted, params)
    if method == "LAP-backward-seq":
        assert_masks(masks(placed), wanted, params)


def compilations(
    widths: list[int], count_compilations: Counter, method: str, sparsities: list[Any]
) -> list[int]:
    params = oracle.dense_tree(np.random.default_rng(0), widths)
    params = jax.tree.map(jnp.asarray, params)
    doubled = jax.tree.map(lambda leaf: leaf * 2, params)
    graph = chain(params, list(params))
    counts = []
    for i, sparsity in enumerate(sparsities):
        with count_compilations() as compiled:
            lookahead_masks(doubled if i else params, graph, sparsity, method=method)
        counts.append(len(compiled))
    return counts


@pytest.mark.parametrize("method", ["LAP", "LAP-forward-seq"])
def test_one_compilation_serves_the_tree_and_every_sparsity(
    method: str, count_compilations: Counter
) -> None:
    """One program for the whole tree, however many the layers."""
    new = 40 + METHODS[method].steps  # No width that another test has compiled for.
    compilations([new, 2], count_compilations, method, [0.5])  # Scalars and the like.
    small = compilations([new, 13, 7], count_compilations, method, [0.5, 0.7, [0.1, 0.2]])
    deep = compilations([new, 7, 9, 5, 3, 2], count_compilations, method, [0.5, {"*": 0.123}])
    assert small == [1, 0, 0]
    assert deep == [1, 0]


def test_a_jitted_call_is_one_program(count_compilations: Counter) -> None:
    params = oracle.dense_tree(np.random.default_rng(0), [5, 7, 9, 3])
    params = jax.tree.map(jnp.asarray, params)
    with count_compilations() as compiled:
        jax.jit(lambda tree: lookahead_masks(tree, list(params), 0.5))(params)
    assert len(compiled) == 1


# ---------------------------------------------------------------- graphs and scores


def test_the_scores_explain_the_mask() -> None:
    params, stats, declared, _ = conv_net(4)
    scores = lookahead_scores(params, declared, batch_stats=stats)
    masks = lookahead_masks(params, declared, 0.7, batch_stats=stats)
    for name, values in scores.items():
        mask, values = np.asarray(masks[name]["kernel"]), np.asarray(values)
        assert values[mask].min() >= values[~mask].max()


def test_a_residual_graph_is_pruned_in_order() -> None:
    """a feeds b and c, c reads a + b: forward order prunes a, then b on the pruned a, then c."""
    rng = np.random.default_rng(0)
    params = {
        name: {"kernel": rng.normal(size=shape).astype(np.float32)}
        for name, shape in {"a": (5, 6), "b": (6, 6), "c": (6, 4)}.items()
    }
    declared = ["a", "b", Layer("c", previous=("a", "b"))]
    found = lookahead_masks(params, declared, 0.5, method="LAP-forward")
    a, b, c = (np.asarray(params[name]["kernel"], np.float64) for name in "abc")
    mask_a = oracle.keep_best(np.abs(a) * np.sqrt((b**2).sum(1) + (c**2).sum(1)), 15)
    into_b = np.sqrt(((a * mask_a) ** 2).sum(0))
    mask_b = oracle.keep_best(np.abs(b) * into_b[:, None] * np.sqrt((c**2).sum(1)), 18)
    into_c = np.sqrt(((a * mask_a) ** 2).sum(0) + ((b * mask_b) ** 2).sum(0))
    mask_c = oracle.keep_best(np.abs(c) * into_c[:, None], 12)
    assert_masks(found, [mask_a, mask_b, mask_c], params)


# ---------------------------------------------------------------- weights that are not numbers


@pytest.mark.parametrize("method", [name for name in NINE if name != "RP"])
def test_counts_stay_exact_inside_jit_with_bad_weights(method: str) -> None:
    params = oracle.dense_tree(np.random.default_rng(0), [5, 6, 4])
    masks = jax.jit(lambda tree: lookahead_masks(tree, list(params), 0.8, method=method))
    for bad in (np.nan, np.inf, -np.inf):
        params["Dense_0"]["kernel"][2, 3] = bad
        params["Dense_1"]["kernel"][1, 1] = bad
        assert [mask.sum() for mask in kernels(masks(params), params)] == [6, 5]


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
def test_a_bad_weight_is_kept_inside_jit(bad: float) -> None:
    params = oracle.dense_tree(np.random.default_rng(0), [5, 6, 4])
    params["Dense_0"]["kernel"][4, 5] = bad
    found = jax.jit(lambda tree: lookahead_masks(tree, list(params), 0.9, method="MP"))(params)
    assert found["Dense_0"]["kernel"][4, 5]


def test_a_traced_sparsity_is_refused_by_name() -> None:
    params = oracle.dense_tree(np.random.default_rng(0), [5, 6, 4])
    with pytest.raises(PruningError, match=r"sparsity"):
        jax.jit(lambda s: lookahead_masks(params, list(params), s))(0.5)

"""Effective pruning: exact counts, every kept weight on a path, and nothing else changed."""

import itertools
from typing import Any

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import lap_jax
from lap_jax import METHODS, Method, Scope, chain, lookahead_masks, summarize
from tests import zoo
from tests.networks import conv_net, kernels, mlp
from tests.scoring.test_liveness import walked

WIDTHS = (20, 16, 16, 6)
NAMES = [f"Dense_{i}" for i in range(3)]


def tailed(seed: int) -> Any:
    """Heavy tails, and neurons of very different sizes: magnitude pruning cuts them off."""
    rng = np.random.default_rng(seed)
    return {
        name: {
            "kernel": (
                rng.standard_t(2, size=shape) * np.exp(rng.normal(size=(shape[0], 1)))
                * np.exp(rng.normal(size=shape[1]))
            ).astype(np.float32)
        }
        for name, shape in zip(NAMES, itertools.pairwise(WIDTHS), strict=True)
    }  # fmt: skip


def counts(params: Any, masks: Any, names: Any = NAMES) -> tuple[int, int]:
    """Kept weights, and effective ones."""
    total = summarize(masks, chain(params, names)).total
    assert total.effective is not None
    return total.kept, total.effective


@hypothesis.settings(max_examples=12)
@hypothesis.given(
    seed=st.integers(0, 2**31), sparsity=st.sampled_from([0.5, 0.8, 0.9, 0.95]),
    name=st.sampled_from(["MP", "RP", "LAP", "LAP-backward", "LAP-forward-seq"]),
)  # fmt: skip
def test_counts_are_exact_and_all_of_it_is_on_a_path(seed: int, sparsity: float, name: Any) -> None:
    params, key = tailed(seed), jax.random.key(seed)
    masks = lookahead_masks(params, NAMES, sparsity, method=name, effective=True, key=key)
    found = kernels(masks, NAMES)
    wanted = [round((1 - sparsity) * mask.size) for mask in found]
    assert [int(mask.sum()) for mask in found] == wanted
    on_a_path = walked([np.asarray(mask) for mask in found])
    plain = lookahead_masks(params, NAMES, sparsity, method=name, key=key)
    if sparsity <= 0.9:
        chex.assert_trees_all_equal([np.asarray(mask) for mask in found], on_a_path)
    assert counts(params, masks)[1] >= counts(params, plain)[1]
    if counts(params, plain)[0] == counts(params, plain)[1]:
        chex.assert_trees_all_equal(masks, plain)


def test_magnitude_pruning_wastes_what_effective_pruning_does_not() -> None:
    params = tailed(3)
    kept, plain = counts(params, lookahead_masks(params, NAMES, 0.9, method="MP"))
    assert plain < 0.8 * kept
    again = lookahead_masks(params, NAMES, 0.9, method="MP", effective=True)
    assert counts(params, again) == (kept, kept)


def test_where_too_few_can_be_effective_the_count_still_holds() -> None:
    """The first layer keeps one weight, and reaches one neuron; the second keeps all of its own."""
    params = tailed(0)
    levels = [1 - 1 / 320, 0.0, 0.5]
    with pytest.warns(UserWarning, match=r"of the kept weights lie on no path") as told:
        masks = lookahead_masks(params, NAMES, levels, method="MP", effective=True)
    assert [int(mask.sum()) for mask in kernels(masks, NAMES)] == [1, 256, 48]
    kept, effective = counts(params, masks)
    assert effective < kept == 305
    assert f"{kept - effective} of" in str(told[0].message)


@pytest.mark.parametrize("name", ["MP", "LAP", "LAP-backward-seq"])
def test_under_jit_the_masks_are_the_same(name: Any) -> None:
    params = tailed(5)

    def masks(params: Any) -> Any:
        return lookahead_masks(params, NAMES, 0.9, method=name, effective=True)

    chex.assert_trees_all_equal(jax.jit(masks)(params), masks(params))


def test_under_vmap_each_network_ends_by_itself() -> None:
    networks = [tailed(seed) for seed in (5, 6)]

    def masks(params: Any) -> Any:
        return lookahead_masks(params, NAMES, 0.9, method="MP", effective=True)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
    wanted = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(masks, networks))
    chex.assert_trees_all_equal(jax.vmap(masks)(stacked), wanted)


@pytest.mark.parametrize(
    "scope",
    [Scope("global"), Scope(unit="channel", outputs=True), Scope(unit=(2, 2)), Scope(group=(1, 2))],
    ids=["global", "channel", "block", "group"],
)
def test_scopes_keep_their_counts_and_waste_no_more(scope: Scope) -> None:
    params = tailed(7)
    sparsity = 0.5 if scope.group else 0.8
    plain = lookahead_masks(params, NAMES, sparsity, method="MP", scope=scope)
    masks = lookahead_masks(params, NAMES, sparsity, method="MP", scope=scope, effective=True)
    assert counts(params, masks)[0] == counts(params, plain)[0]
    assert counts(params, masks)[1] >= counts(params, plain)[1]


def test_convolutions_with_groups_and_a_flatten() -> None:
    net = conv_net()
    graph = chain(net.params, net.declared, net.stats)
    for name in ("MP", "LAP"):
        plain, masks = (
            lookahead_masks(net.params, graph, 0.8, method=name, effective=effective,
                            batch_stats=net.stats)
            for effective in (False, True)
        )  # fmt: skip
        before, after = summarize(plain, graph).total, summarize(masks, graph).total
        assert before.effective is not None
        assert after.effective is not None
        assert before.kept == after.kept
        assert before.effective < after.effective == after.kept


def test_earlier_masks_nest() -> None:
    params = tailed(9)
    first = lookahead_masks(params, NAMES, 0.5, method="MP")
    masks = lookahead_masks(params, NAMES, 0.9, method="MP", effective=True, masks=first)
    for new, old in zip(kernels(masks, NAMES), kernels(first, NAMES), strict=True):
        assert not (np.asarray(new) & ~np.asarray(old)).any()
    assert counts(params, masks)[0] == counts(params, masks)[1]


def test_in_training_with_reconnection() -> None:
    import optax

    params, graph = mlp(4), chain(mlp(4), list(mlp(4)))
    optimizer = lap_jax.prune_in_training(
        optax.sgd(0.1), graph, [(0, 0.9)], method=METHODS["MP"]._replace(effective=True)
    )
    _, state = jax.jit(optimizer.update)(params, optimizer.init(params), params)
    masks = lap_jax.masks_in(state)
    wanted = lookahead_masks(params, graph, 0.9, method="MP", effective=True)
    for name in graph.names:
        chex.assert_trees_all_equal(masks[f"{name}/kernel"], wanted[name]["kernel"])


def test_on_a_mesh_the_masks_are_those_of_one_device() -> None:
    params = {
        name: {"kernel": np.tile(layer["kernel"], (2, 2))} for name, layer in tailed(2).items()
    }
    params["Dense_2"]["kernel"] = params["Dense_2"]["kernel"][:, :8]
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("a", "b"))
    placed = jax.device_put(params, NamedSharding(mesh, P("a", "b")))
    wanted = lookahead_masks(params, NAMES, 0.9, method="MP", effective=True)
    chex.assert_trees_all_equal(
        lookahead_masks(placed, NAMES, 0.9, method="MP", effective=True), wanted
    )


def test_permuted_neurons_permute_the_masks() -> None:
    params = tailed(11)
    order = np.random.default_rng(0).permutation(16)
    turned = {name: dict(layer) for name, layer in params.items()}
    turned["Dense_0"]["kernel"] = params["Dense_0"]["kernel"][:, order]
    turned["Dense_1"]["kernel"] = params["Dense_1"]["kernel"][order]
    method = Method("magnitude", effective=True)
    one = lookahead_masks(params, NAMES, 0.9, method=method)
    other = lookahead_masks(turned, NAMES, 0.9, method=method)
    chex.assert_trees_all_equal(other["Dense_0"]["kernel"], one["Dense_0"]["kernel"][:, order])
    chex.assert_trees_all_equal(other["Dense_1"]["kernel"], one["Dense_1"]["kernel"][order])


@pytest.mark.parametrize(
    "model",
    [
        zoo.ResNet((1,), 3, 4),
        *(
            pytest.param(model, marks=pytest.mark.slow)
            for model in (
                zoo.ConvNet((4, 6), 5, 3), zoo.ResNet((1, 2), 3, 4), zoo.DenseNet((2, 2), 2, 4),
                zoo.MobileNetV2(((1, 3, 1, 1), (2, 4, 2, 2)), 3, 6, 4),
            )
        ),
    ],
    ids=lambda model: type(model).__name__,
)  # fmt: skip
def test_residual_and_convolutional_models_against_their_derivatives(model: Any) -> None:
    """Where all is positive, the output depends on a weight if and only if it is on a path."""
    images = jax.random.uniform(jax.random.key(0), (1, 64, 64, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rng = np.random.default_rng(0)

    def positive(shape: tuple[int, ...]) -> Any:
        fan_in = np.prod(shape[:-1]) if len(shape) > 1 else 1
        return jnp.asarray(rng.uniform(1, 2, shape) / fan_in, jnp.float32)

    params = jax.tree.map(lambda leaf: positive(leaf.shape), shapes["params"])
    graph = lap_jax.trace(model, shapes, images)
    stats = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes.get("batch_stats", {}))
    stats = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + float("var" in str(path[-1])), stats
    )

    @jax.jit
    def derivatives(masks: Any) -> Any:
        # A constant carries nothing.
        kept = jax.tree.map(lambda leaf: leaf if leaf.ndim > 1 else 0 * leaf, params)
        scales = jax.tree_util.tree_map_with_path(
            lambda path, leaf: jnp.ones_like(leaf) if "scale" in str(path[-1]) else leaf, kept
        )
        variables = {"params": lap_jax.apply_masks(scales, masks)}
        if stats:
            variables["batch_stats"] = stats
        return jax.grad(lambda v: model.apply({**variables, "params": v}, images).sum())(
            variables["params"]
        )

    levels = {name: 0.75 for name in graph.names}
    if isinstance(model, zoo.ConvNet):
        levels["Dense_0"] = 0.0  # one position may see nothing but padding
    for wanted in (False, True):
        masks = lookahead_masks(
            params, graph, levels, method="MP", batch_stats=stats or None,
            effective=wanted,
        )  # fmt: skip
        found = derivatives(masks)
        rows = summarize(masks, graph).rows
        for row in rows:
            grad, mask = found, masks
            for folder in row.layer.split("/"):
                grad, mask = grad[folder], mask[folder]
            assert row.effective == int(((grad["kernel"] != 0) & mask["kernel"]).sum()), row
        if wanted:
            assert all(row.effective == row.kept for row in rows if levels[row.layer])
        else:
            assert any(row.effective != row.kept for row in rows)

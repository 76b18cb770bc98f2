"""Masks have the structure of the parameters, whatever holds them."""

from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict, freeze

from lap_jax import apply_masks, chain, lookahead_masks
from tests import oracle


class Pair(NamedTuple):
    first: Any
    second: Any


def layers() -> oracle.Tree:
    return oracle.dense_tree(np.random.default_rng(0), [5, 7, 4])


def as_tree(kind: str) -> tuple[Any, list[str]]:
    first, second = layers().values()
    match kind:
        case "dict":
            return {"a": first, "b": second}, ["a", "b"]
        case "nested dict":
            return {"params": {"net": {"a": first, "b": second}}}, ["params/net/a", "params/net/b"]
        case "FrozenDict":
            return freeze({"a": first, "b": second}), ["a", "b"]
        case "list":
            return [first, second], ["0", "1"]
        case "tuple":
            return (first, second), ["0", "1"]
        case "namedtuple":
            return Pair(first, second), ["first", "second"]
        case "bare kernels":
            return {"w1": first["kernel"], "w2": second["kernel"]}, ["w1", "w2"]
    raise AssertionError(kind)


KINDS = ["dict", "nested dict", "FrozenDict", "list", "tuple", "namedtuple", "bare kernels"]


def check(params: Any, masks: Any, sizes: list[int], sparsity: float = 0.6) -> None:
    """Same structure; arrays with exact counts for kernels, else scalar True; multiply works."""
    chex.assert_trees_all_equal_structs(masks, params)
    assert type(masks) is type(params)
    chex.assert_type(jax.tree.leaves(masks), bool)
    pairs = list(zip(jax.tree.leaves(params), jax.tree.leaves(masks), strict=True))
    arrays = [(leaf, mask) for leaf, mask in pairs if mask.ndim]
    chex.assert_trees_all_equal_shapes(*map(list, zip(*arrays, strict=True)))
    assert all(bool(mask) for _, mask in pairs if not mask.ndim)
    assert [mask.size for _, mask in arrays] == sizes
    assert [int(mask.sum()) for _, mask in arrays] == [round((1 - sparsity) * n) for n in sizes]
    product = jax.tree.map(jnp.multiply, params, masks)
    applied = apply_masks(params, masks)
    chex.assert_trees_all_equal(product, applied)
    chex.assert_trees_all_equal_shapes_and_dtypes(applied, params)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_shaped_like_the_parameters(kind: str) -> None:
    params, names = as_tree(kind)
    check(params, lookahead_masks(params, names, 0.6), [35, 28])


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_tree_does_not_change_the_masks(kind: str) -> None:
    plain, names = as_tree("dict")
    wanted = [m for m in jax.tree.leaves(lookahead_masks(plain, names, 0.6)) if m.ndim]
    params, names = as_tree(kind)
    found = [m for m in jax.tree.leaves(lookahead_masks(params, names, 0.6)) if m.ndim]
    chex.assert_trees_all_equal(found, wanted)


def test_frozen_stays_frozen() -> None:
    params, names = as_tree("FrozenDict")
    assert isinstance(lookahead_masks(params, names, 0.6), FrozenDict)


def test_kernel_paths_may_be_spelled_out() -> None:
    params, names = as_tree("dict")
    short = lookahead_masks(params, names, 0.6)
    long = lookahead_masks(params, [f"{name}/kernel" for name in names], 0.6)
    chex.assert_trees_all_equal(short, long)


def test_leaves_outside_of_the_chain_stay_whole() -> None:
    params = layers() | {"other": {"kernel": np.ones((3, 3), np.float32), "step": np.int32(3)}}
    masks = lookahead_masks(params, ["Dense_0", "Dense_1"], 0.6)
    chex.assert_trees_all_equal(
        masks["other"], {"kernel": jnp.array(True), "step": jnp.array(True)}
    )
    chex.assert_trees_all_equal_structs(masks, params)


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.depth = nnx.Conv(4, 4, (3, 3), feature_group_count=4, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(4 * 4, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)])


def test_nnx_state_gives_nnx_state() -> None:
    model = Net(nnx.Rngs(0))
    params, stats = nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)
    declared = ["conv", "norm", "depth", "blocks/0", "blocks/1"]
    masks = lookahead_masks(params, declared, 0.6, batch_stats=stats)
    assert isinstance(masks, nnx.State)
    check(params, masks, kernel_sizes(params))
    nnx.update(model, apply_masks(params, masks))
    left = (np.asarray(model.blocks[0].kernel[...]) != 0).sum()
    assert left == round(0.4 * 96)


def kernel_sizes(params: Any) -> list[int]:
    """Sizes of the kernels in the tree's own order."""
    return [leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim > 1]


def test_nnx_graph_uses_the_same_names_as_a_dict() -> None:
    model = Net(nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    pure = nnx.to_pure_dict(params)
    declared = ["conv", "depth", "blocks/0", "blocks/1"]
    assert chain(params, declared) == chain(pure, declared)
    assert [layer.path for layer in chain(params, declared).layers] == [
        f"{name}/kernel" for name in declared
    ]


def test_whole_nnx_state_works_too() -> None:
    """Statistics among the parameters, as `nnx.split(model)` gives them."""
    model = Net(nnx.Rngs(0))
    _, state = nnx.split(model)
    declared = ["conv", "norm", "depth", "blocks/0", "blocks/1"]
    masks = lookahead_masks(state, declared, 0.6, batch_stats=state)
    chex.assert_trees_all_equal_structs(masks, state)
    separate = lookahead_masks(
        nnx.state(model, nnx.Param), declared, 0.6, batch_stats=nnx.state(model, nnx.BatchStat)
    )
    kernels = [jax.tree.leaves(tree["conv"]["kernel"]) for tree in (masks, separate)]
    chex.assert_trees_all_equal(*kernels)


class Boxed(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
        x = nn.Dense(7, kernel_init=init)(x)
        return nn.Dense(3, kernel_init=init)(x)


def test_partitioned_boxes_stay_boxes() -> None:
    params = Boxed().init(jax.random.key(0), jnp.ones((1, 5)))["params"]
    masks = lookahead_masks(params, ["Dense_0", "Dense_1"], 0.6)
    assert isinstance(masks["Dense_0"]["kernel"], nn.Partitioned)
    check(params, masks, [35, 21])
    plain = lookahead_masks(nn.meta.unbox(params), ["Dense_0", "Dense_1"], 0.6)
    chex.assert_trees_all_equal(nn.meta.unbox(masks), plain)


def test_linen_batch_norm_straight_from_init() -> None:
    class Small(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.Conv(4, (3, 3))(x)
            x = nn.BatchNorm(use_running_average=True)(x)
            x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
            return nn.Dense(3)(x.reshape(x.shape[0], -1))

    variables = Small().init(jax.random.key(0), jnp.ones((1, 8, 8, 1)))
    masks = lookahead_masks(
        variables["params"],
        ["Conv_0", "BatchNorm_0", "Dense_0"],
        0.6,
        batch_stats=variables["batch_stats"],
    )
    check(variables["params"], masks, [36, 192])


def test_masks_of_numpy_and_jax_parameters_agree() -> None:
    params = layers()
    one = lookahead_masks(params, list(params), 0.6)
    two = lookahead_masks(jax.tree.map(jnp.asarray, params), list(params), 0.6)
    chex.assert_trees_all_equal(one, two)

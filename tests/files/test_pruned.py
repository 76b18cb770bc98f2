"""Pruned networks on disk: bit for bit, and no larger than they have to be."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze
from safetensors.flax import load_file

from lap_jax import PruningError, load_pruned, save_pruned

DTYPES = ["float32", "float16", "bfloat16", "float8_e5m2", "int8", "int32", "uint16", "float64"]
NANS = {1: 0x7D, 2: 0x7FB1, 4: 0x7FA12345, 8: 0x7FF4000000000123}


def leaf_of(dtype: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Any bits at all, -0.0 and a signalling NaN with a payload among those that are kept."""
    mask = rng.random((31, 17)) < rng.choice([0.02, 0.3, 0.7])
    kind = jnp.dtype(dtype)
    words = rng.integers(0, 256, (31, 17, kind.itemsize), np.uint8).view(f"u{kind.itemsize}")[
        ..., 0
    ]
    mask[0, :2] = True
    words[0, :2] = 1 << (8 * kind.itemsize - 1), NANS[kind.itemsize]
    return np.where(mask, words, 0).view(kind), mask


def bits(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1).view(np.uint8), tree)


def test_every_bit_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = {dtype: leaf_of(dtype, rng) for dtype in DTYPES}
    params: Any = {name: {"kernel": pair[0]} for name, pair in pairs.items()}
    masks: Any = {name: {"kernel": jnp.asarray(pair[1])} for name, pair in pairs.items()}
    others = {"scalar": np.float32(-0.0), "count": 7, "empty": np.zeros((0, 3), np.int8)}
    params |= {"dense": np.array([np.nan, -0.0, 1e-45], np.float32), "others": others}
    params |= {"gone": {"kernel": np.zeros((3, 4), jnp.bfloat16)}, "kept": jnp.ones((2, 3))}
    masks |= {"gone": {"kernel": jnp.bool_(False)}, "kept": jnp.ones((2, 3), bool)}
    save_pruned(tmp_path / "x", params, masks)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), np.int8), params)
    found, found_masks = load_pruned(tmp_path / "x", shapes)
    chex.assert_trees_all_equal(bits(found), bits(params), strict=True)
    chex.assert_trees_all_equal_dtypes(found, jax.tree.map(np.asarray, params))
    chex.assert_trees_all_equal_shapes(found, jax.tree.map(np.asarray, params))
    assert isinstance(found["float64"]["kernel"], np.ndarray)
    assert all(isinstance(found[name]["kernel"], jax.Array) for name in DTYPES[:-1])
    everywhere = jax.tree.map(lambda _: jnp.bool_(True), params)
    chex.assert_trees_all_equal(found_masks, everywhere | masks, strict=True)


def test_any_tree_and_functions_in_it(tmp_path: Path) -> None:
    state = nnx.state(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.Param)
    save_pruned(tmp_path / "x", state)
    found, masks = load_pruned(tmp_path / "x", state)
    chex.assert_trees_all_equal((found, jax.tree.leaves(masks)), (state, [True, True]))
    params = freeze({"a": jnp.ones(3), "activation": jax.nn.relu})
    save_pruned(tmp_path / "x", params)
    chex.assert_trees_all_equal(load_pruned(tmp_path / "x", params)[0]["a"], params["a"])
    assert load_pruned(tmp_path / "x", params)[0]["activation"] is jax.nn.relu


def test_a_network_without_masks_is_an_ordinary_file(tmp_path: Path) -> None:
    """A small network, say: no other reader has to know of us."""
    params: Any = {"a": {"kernel": jnp.ones((3, 4), jnp.bfloat16)}, "b": jnp.arange(5)}
    save_pruned(tmp_path / "x", params)
    chex.assert_trees_all_equal(
        load_file(tmp_path / "x"), {"a/kernel": params["a"]["kernel"], "b": params["b"]}
    )


def entropy(share: float) -> float:
    return -sum(p * math.log2(p) for p in (share, 1 - share) if p)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_takes_the_values_and_the_entropy_of_the_masks_within_a_tenth(
    dtype: str, tmp_path: Path
) -> None:
    """The FCN of the paper, biases among the values."""
    widths, rng = [784, 500, 500, 500, 500, 10], np.random.default_rng(0)
    for sparsity in (0.5, 0.62, 0.8, 0.9, 0.99, 0.999):
        params, masks, bound = {}, {}, 0.0
        for i, shape in enumerate(pairwise(widths)):
            mask = rng.random(shape) >= sparsity
            kernel = jnp.where(mask, jnp.asarray(rng.normal(size=shape), dtype), 0)
            params[f"Dense_{i}"] = {"kernel": kernel, "bias": jnp.zeros(shape[1], dtype)}
            masks[f"Dense_{i}"] = {"kernel": mask}
            bound += mask.size * entropy(mask.mean()) / 8
            bound += (mask.sum() + shape[1]) * kernel.dtype.itemsize
        save_pruned(tmp_path / "x", params, masks)
        size = (tmp_path / "x").stat().st_size
        assert size <= (1.1 * bound if dtype == "float32" or sparsity < 0.999 else bound + 1400)


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    params: Any = {"a": {"kernel": jnp.array([[1.0, -0.0], [3.0, 4.0]])}}
    keep = jnp.array([[True, False], [True, True]])
    cases: list[tuple[Any, str]] = [
        (
            {"a": {"kernel": ~keep}},
            "'a/kernel' has 3 pruned weights that are not zero.*apply_masks",
        ),
        ({"a": {"kernel": jnp.bool_(False)}}, "'a/kernel' has 3 pruned.*apply_masks"),
        ({"a": {"kernel": keep[:1]}}, r"'a/kernel' has shape \(1, 2\), its parameter \(2, 2\)"),
        ({"b": keep}, "'b' has no parameter"),
        ({"a": {"kernel": jnp.full((2, 2), 0.5)}}, "'a/kernel' is float32: expected booleans"),
    ]
    for masks, message in cases:
        with pytest.raises(PruningError, match=message):
            save_pruned(tmp_path / "x", params, masks)
    with pytest.raises(PruningError, match=r"'key' has the type key<fry>.*key_data"):
        save_pruned(tmp_path / "x", {"key": jax.random.key(0)})
    assert list(tmp_path.iterdir()) == []
    save_pruned(tmp_path / "x", params, {"a": {"kernel": keep}})
    found, _ = load_pruned(tmp_path / "x", params)
    assert not np.signbit(found["a"]["kernel"][0, 1])  # pruned: +0
    for other in ({"a": {"kernel": jnp.ones((2, 3))}}, {"b": jnp.ones(3)}, params | {"b": 1.0}):
        with pytest.raises(PruningError, match=r"another model: parameter '(a/kernel|b)'"):
            load_pruned(tmp_path / "x", other)

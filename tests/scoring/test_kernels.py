"""Kernels lie in leaves in many ways: reading and putting back undo each other."""

import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lap_jax import Edge, Graph, Layer
from lap_jax.scoring.kernels import (
    Layout,
    as_read,
    in_leaf,
    kernel_of,
    layout_of,
    leaves_of,
    part_of,
    read,
)


class Lies(NamedTuple):
    """A layer, the shape of its leaf, and the kernel's entry ``index`` by loops."""

    layer: Layer
    leaf: tuple[int, ...]


CASES = {
    "as it is": Lies(Layer("a", "a", (3, 4)), (3, 4)),
    "conv": Lies(Layer("a", "a", (2, 3, 4, 5)), (2, 3, 4, 5)),
    "stacked": Lies(Layer("a", "a", (3, 4), place=(1,)), (2, 3, 4)),
    "stacked twice": Lies(Layer("a", "a", (3, 4), place=(1, 2)), (2, 3, 3, 4)),
    "transposed": Lies(Layer("a", "a", (4, 3), split=(3, 4), order=(1, 0)), (3, 4)),
    "heads": Lies(Layer("a", "a", (3, 8), split=(3, 2, 4), order=(0, 1, 2)), (3, 2, 4)),
    "heads, one first": Lies(Layer("a", "a", (3, 8), split=(2, 3, 4), order=(1, 0, 2)), (2, 3, 4)),
    "stacked, transposed": Lies(
        Layer("a", "a", (4, 3), place=(1,), split=(3, 4), order=(1, 0)), (2, 3, 4)
    ),
}


def by_hand(case: Lies, leaf: Any) -> Any:
    """The kernel by a loop over the entries of the leaf's part."""
    layer = case.layer
    part = leaf[layer.place]
    split = layer.split or layer.shape
    order = layer.order or tuple(range(len(split)))
    flat = np.empty(layer.size, part.dtype)
    moved = tuple(split[axis] for axis in order)
    for number, entry in enumerate(np.ndindex(*split)):
        place = tuple(entry[axis] for axis in order)
        flat[np.ravel_multi_index(place, moved)] = part.ravel()[number]
    return flat.reshape(layer.shape)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_kernel_is_read_from_its_leaf(name: str, transform: Any) -> None:
    case = CASES[name]
    leaf = np.arange(math.prod(case.leaf), dtype=np.float32).reshape(case.leaf)
    wanted = by_hand(case, leaf)
    chex.assert_trees_all_equal(kernel_of(case.layer, leaf), wanted)
    found = transform(lambda leaf: read(layout_of(case.layer), part_of(case.layer, leaf)))
    chex.assert_trees_all_equal(found(jnp.asarray(leaf)), wanted)


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_goes_back_to_where_it_was(name: str) -> None:
    case = CASES[name]
    leaf = jnp.arange(math.prod(case.leaf), dtype=jnp.float32).reshape(case.leaf)
    part = leaf[case.layer.place]
    back = in_leaf(layout_of(case.layer), kernel_of(case.layer, leaf), part.shape)
    chex.assert_trees_all_equal(back, part)


@given(st.permutations(range(3)), st.permutations(range(3)))
def test_one_way_of_reading_becomes_another(first: list[int], again: list[int]) -> None:
    """Both read the same leaf of 2 x 3 x 4 numbers, in any order of its axes."""
    split = (2, 3, 4)
    leaf = jnp.arange(24.0).reshape(split)

    def layout(order: list[int]) -> Layout:
        sizes = [split[axis] for axis in order]
        return Layout((sizes[0] * sizes[1], sizes[2]), 1, split, tuple(order))

    one, two = layout(first), layout(again)
    read_one, read_two = (leaf.transpose(o).reshape(way.shape) for o, way in
                          ((first, one), (again, two)))  # fmt: skip
    chex.assert_trees_all_equal(as_read(one, two, read_one), read_two)
    chex.assert_trees_all_equal(as_read(two, one, read_two), read_one)
    plain = Layout((6, 4))
    chex.assert_trees_all_equal(as_read(one, plain, read_one), leaf.reshape(6, 4))
    chex.assert_trees_all_equal(as_read(plain, one, leaf.reshape(6, 4)), read_one)


def test_masks_of_layers_are_put_together_into_leaves() -> None:
    """True where no layer is, and where a layer has no mask."""
    layers = (
        Layer("own", "own/kernel", (3, 4)),
        Layer("first", "stack", (3, 4), place=(0,)),
        Layer("last", "stack", (4, 3), place=(2,), split=(3, 4), order=(1, 0)),
        Layer("flat", "flat", (3, 4), split=(4, 3), order=(1, 0)),
        Layer("again", "own/kernel", (4, 3), split=(3, 4), order=(1, 0), tied_to="own"),
        Layer("absent", "absent", (2, 2)),
    )
    shapes = {"own/kernel": (3, 4), "stack": (3, 3, 4), "flat": (4, 3), "absent": (2, 2)}
    rng = np.random.default_rng(0)
    arrays = {each.name: jnp.asarray(rng.random(each.shape) < 0.5) for each in layers[:4]}
    graph = Graph(layers, (Edge("own", "again"),))
    found = leaves_of(graph, arrays, shapes, dict.fromkeys(shapes))
    wanted = {
        "own/kernel": arrays["own"],
        "stack": np.stack([arrays["first"], np.ones((3, 4), bool), arrays["last"].T]),
        "flat": arrays["flat"].T,
        "absent": np.ones((2, 2), bool),
    }
    chex.assert_trees_all_equal(found, wanted)
    chex.assert_type(list(found.values()), bool)

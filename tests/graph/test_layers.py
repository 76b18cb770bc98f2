"""Edges move channels as their pairs say; what a graph is made of compares, hashes and prints."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lap_jax import Edge, Norm
from lap_jax.graph.layers import Factor, Index, Junction, Layer


@st.composite
def channel_maps(draw: st.DrawFn) -> tuple[Edge, int, int]:
    """An edge that fits, and how many channels and inputs it leads from and to."""
    size, positions = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    offset, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    target = positions * (offset + size + after)
    if draw(st.booleans()):
        return Edge("a", "b", positions, offset), size, target
    ends = st.tuples(st.integers(0, size - 1), st.integers(0, target - 1))
    pairs = draw(st.lists(ends, unique=True, max_size=12))
    return Edge("a", "b", pairs=Index(np.array(pairs, np.int32).reshape(-1, 2))), size, target


def arrived(pairs: np.ndarray, values: np.ndarray, ends: tuple[int, int], size: int) -> list[Any]:
    """What arrives at each number of the end ``ends[1]``, put together pair by pair."""
    return [
        sorted(values[pair[ends[0]]].tolist() for pair in pairs if pair[ends[1]] == place)
        for place in range(size)
    ]


@given(channel_maps())
def test_pairs_of_an_edge_are_what_its_docstring_says(case: tuple[Edge, int, int]) -> None:
    edge, size, target = case
    assert edge.fits(size, target)
    found = edge.pairs_of(size, target)
    chex.assert_shape(found, (None, 2))
    assert found.dtype == np.int32
    if edge.pairs is not None:
        np.testing.assert_array_equal(found, edge.pairs.values)
        return
    wanted = {
        (c, position * (target // edge.positions) + edge.offset + c)
        for c in range(size)
        for position in range(edge.positions)
    }
    assert {(int(c), int(entry)) for c, entry in found} == wanted
    assert len(found) == len(wanted)


@pytest.mark.parametrize("trailing", [(), (3,)], ids=["channels", "trailing axis"])
@given(case=channel_maps())
def test_an_edge_moves_values_pair_by_pair(
    trailing: tuple[int, ...], case: tuple[Edge, int, int]
) -> None:
    edge, size, target = case
    pairs = edge.pairs_of(size, target)
    moves = ((edge.to_target, size, target, (0, 1)), (edge.to_source, target, size, (1, 0)))
    for move, here, there, ends in moves:
        # No value is zero, so that what stands where nothing arrives can be told.
        values = np.arange(1, here * 3 + 1, dtype=np.float32).reshape(here, 3)
        values = values if trailing else values[:, 0].copy()
        found = move(values, there)
        chex.assert_shape(found, (None, there, *trailing))
        assert found.dtype == values.dtype
        wanted = arrived(pairs, values, ends, there)
        for place in range(there):
            column = found[:, place]
            assert sorted(column[column.reshape(len(column), -1).any(1)].tolist()) == wanted[place]


@pytest.mark.parametrize("dtype", ["bool", "bfloat16", "float32"])
@pytest.mark.parametrize(
    "edge",
    [Edge("a", "b", 2, 1), Edge("a", "b", pairs=Index([[0, 5], [2, 5], [2, 1]]))],
    ids=["positions", "pairs"],
)
def test_jax_arrays_move_as_numpys_do_and_keep_their_dtype(edge: Edge, dtype: str) -> None:
    for move, here, there in ((edge.to_target, 3, 10), (edge.to_source, 10, 3)):
        values = np.arange(1, here * 2 + 1).reshape(here, 2).astype(jnp.dtype(dtype))
        plain, array = move(values, there), move(jnp.asarray(values), there)
        assert isinstance(array, jax.Array)
        chex.assert_trees_all_equal_shapes_and_dtypes(plain, array)
        np.testing.assert_array_equal(plain, np.asarray(array))


def test_a_plain_edge_passes_values_as_they_are() -> None:
    values = np.arange(4.0)
    for found in (Edge("a", "b").to_target(values, 4), Edge("a", "b").to_source(values, 4)):
        chex.assert_shape(found, (1, 4))
        assert np.shares_memory(found, values)
    assert Edge("a", "b", scale=0.5).is_plain
    for edge in (Edge("a", "b", 2), Edge("a", "b", 1, 1), Edge("a", "b", pairs=Index([[0, 0]]))):
        assert not edge.is_plain


def test_a_table_of_pairs_is_made_once() -> None:
    edge = Edge("a", "b", pairs=Index([[0, 2], [1, 2], [1, 0]]))
    first = edge._table(1, 3)
    edge.to_target(np.ones(2), 3)
    assert edge._table(1, 3) is first
    twin = Edge("a", "b", pairs=Index([[0, 2], [1, 2], [1, 0]]))
    assert (edge, hash(edge)) == (twin, hash(twin))


@pytest.mark.parametrize(
    ("edge", "sizes"),
    [
        (Edge("a", "b"), (4, 3)),
        (Edge("a", "b", 0), (4, 4)),
        (Edge("a", "b", -1), (4, 4)),
        (Edge("a", "b", 2), (4, 9)),
        (Edge("a", "b", 2), (5, 8)),
        (Edge("a", "b", 1, 2), (4, 5)),
        (Edge("a", "b", 1, -1), (4, 8)),
        (Edge("a", "b", pairs=Index([[0, 0], [4, 0]])), (4, 4)),
        (Edge("a", "b", pairs=Index([[0, 0], [0, 4]])), (4, 4)),
        (Edge("a", "b", pairs=Index([[-1, 0]])), (4, 4)),
        (Edge("a", "b", pairs=Index([[0, -1]])), (4, 4)),
    ],
)
def test_maps_that_leave_their_ends_do_not_fit(edge: Edge, sizes: tuple[int, int]) -> None:
    assert not edge.fits(*sizes)


def test_an_index_compares_by_value_and_cannot_be_written() -> None:
    values = np.array([[0, 1], [2, 3]])
    index = Index(values)
    values[0, 0] = 7
    chex.assert_shape(index.values, (2, 2))
    assert index.values.dtype == np.int32
    assert index == Index([[0, 1], [2, 3]])
    assert hash(index) == hash(Index([[0, 1], [2, 3]]))
    assert index != Index([[0, 1, 2, 3]])
    assert index != Index([[0, 1], [2, 4]])
    assert index != "Index(2x2)"
    assert repr(index) == "Index(2x2)"
    with pytest.raises(ValueError, match="read-only"):
        index.values[0, 0] = 1


def test_sizes_of_layers_and_junctions() -> None:
    conv = Layer("a", "a/kernel", (3, 3, 2, 8), groups=4)
    assert (conv.in_size, conv.out_size, conv.size, conv.is_conv) == (8, 8, 144, True)
    dense = Layer("b", "b/kernel", (5, 7))
    assert (dense.in_size, dense.out_size, dense.size, dense.is_conv) == (5, 7, 35, False)
    junction = Junction("sum 0", 6)
    assert (junction.in_size, junction.out_size) == (6, 6)


def test_factors_print_as_formulas() -> None:
    assert str(Factor("n/scale")) == "n/scale"
    assert str(Factor("n/var", -0.5, 1e-5)) == "(n/var + 1e-05)^-0.5"
    assert Norm("n") == Norm("n", 1e-5, True)

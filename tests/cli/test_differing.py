"""Differences of two checkpoints, counted by hand."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from lap_jax.cli.checkpoints import Checkpoint
from lap_jax.cli.differing import differences
from lap_jax.cli.errors import BadInput
from lap_jax.cli.findings import Findings


def found(
    a: dict[str, np.ndarray], b: dict[str, np.ndarray], tolerance: float = 0.0, zeros: bool = False
) -> Findings:
    first, second = (Checkpoint(Path(p), "msgpack", each, {}) for p, each in (("a", a), ("b", b)))
    return differences(first, second, tolerance, zeros)


KERNEL = np.array([[1.0, 2.0, 0.0], [0.0, 5.0, 6.0]], np.float32)


def test_equal_ones_differ_nowhere_whatever_their_names_look_like() -> None:
    nan = np.array([np.nan, np.inf, -0.0], np.float32)
    one = {"params/a/kernel": KERNEL, "params/a/bias": nan}
    told = found(one, {"a.kernel": KERNEL, "a/bias/value": nan})
    assert (told.differs, told.facts["that differ"]) == (False, 0)
    assert told.facts["kept by both"] == 4


def test_values_are_counted_and_the_largest_gap_named() -> None:
    other = KERNEL + np.array([[0, 0.5, 0], [2, 0, 0]], np.float32)
    told = found({"a": KERNEL}, {"a": other})
    assert told.tables[0].rows == [("a", "values", (2, 3), 2, "2")]
    assert told.tables[1].rows == [("a", (2, 3), 6, 4, 0, 1, 4 / 5)]
    assert not found({"a": KERNEL}, {"a": other}, tolerance=2.0).differs
    assert found({"a": KERNEL}, {"a": other}, tolerance=1.9).differs


def test_only_zeros_count_where_these_are_asked_for() -> None:
    assert not found({"a": KERNEL}, {"a": 3 * KERNEL}, zeros=True).differs
    told = found({"a": KERNEL}, {"a": np.ones_like(KERNEL)}, zeros=True)
    assert told.tables[0].rows == [("a", "zeros", (2, 3), 2, "")]


def test_nan_on_one_side_is_a_difference_that_no_tolerance_covers() -> None:
    told = found({"a": np.array([np.nan, 1.0])}, {"a": np.array([1.0, 1.0])}, tolerance=1e9)
    assert told.tables[0].rows == [("a", "values", (2,), 1, "nan")]


def test_shapes_types_and_missing_ones() -> None:
    a: dict[str, np.ndarray] = {
        "x": KERNEL,
        "y": np.ones(2, np.float32),
        "gone": np.ones(3),
        "same": np.ones(1),
    }
    b: dict[str, np.ndarray] = {
        "x": KERNEL.T,
        "y": np.asarray(jnp.ones(2, jnp.bfloat16)),
        "new": np.ones(4),
        "same": np.ones(1),
    }
    told = found(a, b)
    assert [row[:2] for row in told.tables[0].rows] == [
        ("x", "shape"),
        ("y", "type: float32 and bfloat16"),
        ("gone", "only in a"),
        ("new", "only in b"),
    ]
    assert told.facts["that differ"] == 4


def test_whole_numbers_of_64_bits_are_told_apart() -> None:
    large = np.array([2**62, 1], np.int64)
    told = found({"a": large}, {"a": large + np.array([1, 0])})
    assert told.tables[0].rows == [("a", "values", (2,), 1, "1")]


def test_nothing_in_common_and_a_negative_tolerance_are_refused() -> None:
    with pytest.raises(BadInput, match="no array of one name"):
        found({"a": KERNEL}, {"b": KERNEL})
    with pytest.raises(BadInput, match="--tolerance is -1"):
        found({"a": KERNEL}, {"a": KERNEL}, tolerance=-1)

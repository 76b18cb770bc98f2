"""Where two checkpoints differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from lap_jax import compare
from lap_jax.cli.checkpoints import Checkpoint
from lap_jax.cli.errors import BadInput
from lap_jax.cli.findings import Findings, Table, Value
from lap_jax.cli.models import plain_name


def differences(a: Checkpoint, b: Checkpoint, tolerance: float, zeros: bool) -> Findings:
    """Compare two checkpoints leaf by leaf, and the zeros of their kernels.

    Args:
      a, b: their arrays are matched by name; dots count as slashes, and a first ``params`` or
        ``batch_stats`` and a last ``value`` do not count.
      tolerance: largest difference of two numbers that is none; NaN equals NaN.
      zeros: whether only places of zeros count.

    Raises:
      BadInput: if they have no name in common, or the tolerance is negative.
    """
    if not tolerance >= 0:
        raise BadInput(f"--tolerance is {tolerance}: expected 0 or more")
    first, second = _by_name(a), _by_name(b)
    shared = [name for name in first if name in second]
    if not shared:
        raise BadInput(
            f"{str(a.path)!r} and {str(b.path)!r} have no array of one name: expected checkpoints "
            "of one model"
        )
    only = {side: [name for name in own if name not in other]
            for side, own, other in (("a", first, second), ("b", second, first))}  # fmt: skip
    rows: list[tuple[Value, ...]] = []
    for name in shared:
        found = _difference(first[name], second[name], tolerance, zeros)
        if found is not None:
            rows.append((name, *found))
    rows += [
        (name, f"only in {side}", own[name].shape, own[name].size, "")
        for side, own in (("a", first), ("b", second))
        for name in only[side]
    ]
    masks, kept = _masks(first, second, shared)
    facts: dict[str, Value] = {
        "arrays in a": len(first),
        "arrays in b": len(second),
        "that differ": len(rows),
    }
    tables = [
        Table("differences", ("leaf", "what", "shape", "numbers", "largest"), rows),
        Table(
            "masks", ("layer", "shape", "weights", "shared", "only a", "only b", "overlap"), masks
        ),
    ]
    return Findings(
        "diff", f"{a.path} and {b.path}", facts | kept, tuple(tables), differs=bool(rows)
    )


def _by_name(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    found = {}
    for name, array in checkpoint.arrays.items():
        plain = plain_name(name)
        for collection in ("params/", "batch_stats/"):
            plain = plain.removeprefix(collection)
        found[name if plain in found else plain] = array
    return found


def _difference(
    a: np.ndarray, b: np.ndarray, tolerance: float, zeros: bool
) -> tuple[Value, ...] | None:
    """Return what differs, the shape, how many numbers do, and the largest difference."""
    if a.shape != b.shape:
        return ("shape", "x".join(map(str, a.shape)) + " and " + "x".join(map(str, b.shape)),
                None, "")  # fmt: skip
    if zeros:
        count = int(((a != 0) != (b != 0)).sum())
        return ("zeros", a.shape, count, "") if count else None
    wide, other = _wide(a), _wide(b)
    with np.errstate(invalid="ignore"):
        gaps = np.where((wide == other) | ((wide != wide) & (other != other)), 0, abs(wide - other))
    # Where one of two is NaN, the gap is NaN, which no tolerance covers.
    differs = ~(gaps <= tolerance)
    if differs.any():
        largest = gaps.max()  # NaN, if one is
        return ("values", a.shape, int(differs.sum()), f"{float(largest):.3g}")
    if a.dtype != b.dtype:
        return (f"type: {a.dtype} and {b.dtype}", a.shape, None, "")
    return None


def _wide(array: np.ndarray) -> np.ndarray:
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        return array.astype(np.complex128)
    # Whole numbers of 64 bits stay themselves: a float holds 53 of them.
    if jnp.issubdtype(array.dtype, jnp.inexact) or array.dtype == bool:
        return array.astype(np.float64)
    return array.astype(object) if array.dtype.itemsize == 8 else array.astype(np.int64)


def _masks(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], shared: list[str]
) -> tuple[list[tuple[Value, ...]], dict[str, Value]]:
    """Compare zeros of kernels, where any are pruned."""

    def kernels(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {
            name: arrays[name] != 0
            for name in shared
            if arrays[name].ndim >= 2 and first[name].shape == second[name].shape
        }

    a, b = kernels(first), kernels(second)
    if not a or all(mask.all() for mask in (*a.values(), *b.values())):
        return [], {}
    found = compare(a, b)
    rows: list[tuple[Value, ...]] = [
        (row.layer, row.shape, row.size, row.shared, row.only_a, row.only_b, row.overlap)
        for row in found.rows
    ]
    total = found.total
    return rows, {
        "kept by both": total.shared,
        "kept by a alone": total.only_a,
        "kept by b alone": total.only_b,
        "overlap": total.overlap,
    }

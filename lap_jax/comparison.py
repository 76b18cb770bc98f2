"""What two masks have in common, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.paths import checked_mask, leaves_by_path
from lap_jax.tables import text_table


@dataclass(frozen=True)
class ComparisonRow:
    """One layer, or the total.

    Attributes:
      layer: name of the layer, its path in the tree; "total" for the sum over layers.
      shape: of the kernel; empty for the total.
      size: number of weights.
      shared: number of weights that both masks keep.
      only_a, only_b: number of weights that the first mask alone keeps, and the second.
    """

    layer: str
    shape: tuple[int, ...]
    size: int
    shared: int
    only_a: int
    only_b: int

    @property
    def overlap(self) -> float:
        """Shared weights as a fraction of those that any of the two keeps (Jaccard's index).

        1 where the masks are equal, also where both keep nothing.
        """
        either = self.shared + self.only_a + self.only_b
        return self.shared / either if either else 1.0


@dataclass(frozen=True)
class Comparison:
    """Rows of a comparison, one per kernel. ``print(comparison)`` shows a table."""

    rows: tuple[ComparisonRow, ...]

    @property
    def total(self) -> ComparisonRow:
        """The sum over all rows."""
        size, shared, only_a, only_b = (
            sum(getattr(row, field) for row in self.rows)
            for field in ("size", "shared", "only_a", "only_b")
        )
        return ComparisonRow("total", (), size, shared, only_a, only_b)

    def __str__(self) -> str:
        header = ("layer", "shape", "weights", "shared", "only a", "only b", "overlap")
        rows = [
            (
                row.layer,
                "x".join(map(str, row.shape)),
                *(f"{count:,}" for count in (row.size, row.shared, row.only_a, row.only_b)),
                f"{row.overlap:.2%}",
            )
            for row in (*self.rows, self.total)
        ]
        return text_table(header, rows, right=(2, 3, 4, 5, 6))


def compare(masks_a: Any, masks_b: Any) -> Comparison:
    """Count what two masks of one network both keep, and what only one of them keeps.

    The intersection of two masks is ``jax.tree.map(jnp.logical_and, masks_a, masks_b)``; how large
    it is, of each layer, the rows tell. Two masks that keep fractions p and q at random share p * q
    of the weights.

    Args:
      masks_a, masks_b: as from `lookahead_masks`, matched by path; every array of two or more axes
        in any of them is a kernel, the rest is left out. A scalar stands for a whole kernel.

    Returns:
      The comparison, in the order of ``masks_a``; its numbers are plain Python integers.

    Raises:
      PruningError: if no kernel is found, a mask is not boolean, or only one of the two holds a
        kernel, or another shape of it.

    Example:
      >>> a, b = {"a": jnp.array([[True, True, False]])}, {"a": jnp.array([[True, False, False]])}
      >>> print(compare(a, b))
      layer  shape  weights  shared  only a  only b  overlap
      -----  -----  -------  ------  ------  ------  -------
      a      1x3          3       1       1       0   50.00%
      total               3       1       1       0   50.00%
    """
    first, second = (jax.device_get(leaves_by_path(masks)) for masks in (masks_a, masks_b))
    rows = []
    for path in dict.fromkeys([*first, *second]):
        found = [np.asarray(side[path]) for side in (first, second) if path in side]
        if max(each.ndim for each in found) < 2:
            continue
        for which, side in (("masks_a", first), ("masks_b", second)):
            if path not in side:
                raise PruningError(f"{which} hold no {path!r}: compare masks of one network")
        a, b = found
        if a.shape != b.shape and a.ndim and b.ndim:
            raise PruningError(
                f"{path!r} has shape {a.shape} in masks_a and {b.shape} in masks_b: compare masks "
                "of one network"
            )
        a, b = np.broadcast_arrays(
            np.asarray(checked_mask(f"the mask at {path!r} in masks_a", a)),
            np.asarray(checked_mask(f"the mask at {path!r} in masks_b", b)),
        )
        rows.append(
            ComparisonRow(
                path.removesuffix("/kernel"), a.shape, a.size, int((a & b).sum()),
                int((a & ~b).sum()), int((b & ~a).sum()),
            )
        )  # fmt: skip
    if not rows:
        raise PruningError("the masks hold no kernel: pass what lookahead_masks returned")
    return Comparison(tuple(rows))

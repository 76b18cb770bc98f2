"""What masks keep, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.graph.chain import check_fits
from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import IDENTITY, Layer
from lap_jax.paths import checked_mask, leaves_by_path
from lap_jax.scoring.kernels import kernel_of
from lap_jax.tables import text_table


@dataclass(frozen=True)
class SummaryRow:
    """One layer, or the total.

    Attributes:
      layer: name of the layer; "total" for the sum over layers.
      shape: of the kernel; empty for the total, and for what is not in the graph.
      size: number of weights.
      kept: number of weights that stay.
      dead: number of output neurons without a kept weight before them or, where a graph tells the
        next layers, after them.
      neurons: number of output neurons.
    """

    layer: str
    shape: tuple[int, ...]
    size: int
    kept: int
    dead: int
    neurons: int

    @property
    def sparsity(self) -> float:
        """Fraction of weights removed."""
        return 1 - self.kept / self.size


@dataclass(frozen=True)
class Summary:
    """Rows of a report, one per pruned kernel. ``print(summary)`` shows a table."""

    rows: tuple[SummaryRow, ...]

    @property
    def total(self) -> SummaryRow:
        """The sum over all rows."""
        size, kept, dead, neurons = (
            sum(getattr(row, field) for row in self.rows)
            for field in ("size", "kept", "dead", "neurons")
        )
        return SummaryRow("total", (), size, kept, dead, neurons)

    def __str__(self) -> str:
        header = ("layer", "shape", "weights", "kept", "sparsity", "dead neurons")
        rows = [
            (
                row.layer,
                "x".join(map(str, row.shape)),
                f"{row.size:,}",
                f"{row.kept:,}",
                f"{row.sparsity:.2%}",
                f"{row.dead:,} of {row.neurons:,}",
            )
            for row in (*self.rows, self.total)
        ]
        return text_table(header, rows, right=(2, 3, 4, 5))


def summarize(masks: Any, graph: Graph | None = None) -> Summary:
    """Count what masks keep in each layer.

    Args:
      masks: as from `lookahead_masks`; every array of two or more axes is a kernel, the rest is
        left out.
      graph: the layers and their neighbours. With it the rows follow its order, and a neuron whose
        weights into all next layers are removed is dead too. Weights that it could not read
        (`Graph.unread`) make a last row, "not in the graph": all of them stay.

    Returns:
      The summary; its numbers are plain Python integers.

    Raises:
      PruningError: if the masks hold no kernel, or one that is not boolean, or the graph names one
        that they lack or hold in another shape.
    """
    kernels = {}
    for path, mask in jax.device_get(leaves_by_path(masks)).items():
        if np.ndim(mask) >= 2:
            kernels[path] = np.asarray(checked_mask(f"the mask at {path!r}", mask))
    if not kernels:
        raise PruningError("the masks hold no kernel: pass what lookahead_masks returned")
    if graph is None:
        return Summary(tuple(_row(path, mask) for path, mask in kernels.items()))
    check_fits(graph, {path: mask.shape for path, mask in kernels.items()}, "masks")
    parts = {
        layer.name: np.asarray(kernel_of(layer, kernels[layer.path])) for layer in graph.layers
    }
    read = _read(graph, parts)
    named = {layer.path for layer in graph.layers}
    rows = [
        _row(layer.name, parts[layer.name], read[layer.name])
        for layer in graph.layers
        if not layer.tied_to
    ]
    rows += [_row(path, mask) for path, mask in kernels.items() if path not in named]
    left = [each for each in graph.unread if each.is_weight and each.path not in kernels]
    size = sum(math.prod(each.shape) for each in left)
    return Summary(
        (*rows, SummaryRow("not in the graph", (), size, size, 0, 0)) if left else tuple(rows)
    )


def _row(path: str, mask: np.ndarray, read: np.ndarray | None = None) -> SummaryRow:
    alive = mask.any(tuple(range(mask.ndim - 1)))
    if read is not None:
        alive = alive & read
    return SummaryRow(
        path.removesuffix("/kernel"), mask.shape, mask.size, int(mask.sum()),
        int((~alive).sum()), mask.shape[-1],
    )  # fmt: skip


def _read(graph: Graph, parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return which outputs of each layer or junction some next layer reads, or the output does."""
    read = {name: np.zeros(part.out_size, bool) for name, part in graph.parts.items()}
    # Junctions lead to later ones alone, so that one pass backwards tells them all.
    for part in reversed(graph.parts.values()):
        edges = graph.out_of(part.name)
        found = np.full(part.out_size, not edges or any(e.target == IDENTITY for e in edges))
        for edge in edges:
            if edge.target == IDENTITY:
                continue
            target = graph.parts[edge.target]
            if isinstance(target, Layer):
                mask = parts[edge.target]
                groups = (-1, target.shape[-2], target.groups, target.shape[-1] // target.groups)
                asked = np.any(mask.reshape(groups), axis=(0, 3)).T.reshape(-1)
            else:
                asked = read[edge.target]
            found |= edge.to_source(asked, part.out_size).any(axis=0)
        read[part.name] = found
    return read

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
from lap_jax.scoring.kernels import as_read, kernel_of, layout_of
from lap_jax.scoring.liveness import alive, effective, lead_through
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
      effective: number of kept weights on a path of kept weights from the network's input to its
        output; the others do nothing. None without a graph, which tells the paths.
    """

    layer: str
    shape: tuple[int, ...]
    size: int
    kept: int
    dead: int
    neurons: int
    effective: int | None = None

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
        known = [row.effective for row in self.rows if row.effective is not None]
        effective = sum(known) if len(known) == len(self.rows) else None
        return SummaryRow("total", (), size, kept, dead, neurons, effective)

    def __str__(self) -> str:
        header = ("layer", "shape", "weights", "kept", "sparsity", "effective", "dead neurons")
        rows = [
            (
                row.layer,
                "x".join(map(str, row.shape)),
                f"{row.size:,}",
                f"{row.kept:,}",
                f"{row.sparsity:.2%}",
                "-" if row.effective is None else f"{row.effective:,}",
                f"{row.dead:,} of {row.neurons:,}",
            )
            for row in (*self.rows, self.total)
        ]
        return text_table(header, rows, right=(2, 3, 4, 5, 6))


def summarize(masks: Any, graph: Graph | None = None) -> Summary:
    """Count what masks keep in each layer.

    Args:
      masks: as from `lookahead_masks`; every array of two or more axes is a kernel, the rest is
        left out.
      graph: the layers and their neighbours. With it the rows follow its order, a neuron whose
        weights into all next layers are removed is dead too, and effective weights are counted.
        Weights that it could not read (`Graph.unread`) make a last row, "not in the graph": all of
        them stay.

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
    read, done = _read(graph, parts), _effective(graph, parts)
    named = {layer.path for layer in graph.layers}
    rows = [
        _row(layer.name, parts[layer.name], read[layer.name], int(done[layer.name].sum()))
        for layer in graph.layers
        if not layer.tied_to
    ]
    rows += [_row(path, mask) for path, mask in kernels.items() if path not in named]
    left = [each for each in graph.unread if each.is_weight and each.path not in kernels]
    size = sum(math.prod(each.shape) for each in left)
    return Summary(
        (*rows, SummaryRow("not in the graph", (), size, size, 0, 0)) if left else tuple(rows)
    )


def _row(
    path: str, mask: np.ndarray, read: np.ndarray | None = None, effective: int | None = None
) -> SummaryRow:
    alive = mask.any(tuple(range(mask.ndim - 1)))
    if read is not None:
        alive = alive & read
    return SummaryRow(
        path.removesuffix("/kernel"), mask.shape, mask.size, int(mask.sum()),
        int((~alive).sum()), mask.shape[-1], effective,
    )  # fmt: skip


def _effective(graph: Graph, parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return, by layer that is not tied to another, which of its kept weights are effective."""

    def lead(name: str, channels: np.ndarray, forward: bool) -> np.ndarray:
        return lead_through(layout_of(graph[name]), parts[name], channels, forward)

    live = alive(graph, lead, False)
    found: dict[str, np.ndarray] = {}
    for layer in graph.layers:
        layout, own = layout_of(layer), layer.tied_to or layer.name
        reached, read = live.reached[layer.name], live.read[layer.name]
        mask = effective(layout, parts[layer.name], reached, read)
        first = np.asarray(as_read(layout, layout_of(graph[own]), mask))
        found[own] = found[own] | first if own in found else first
    return found


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

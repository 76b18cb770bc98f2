"""What is left of each layer, as a picture: densities and dead neurons, layers by levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from experiments.reporting.tables import ways_of
from experiments.store import LayerCount, Result

COLUMNS = 5
INK, PAPER = "#111111", "#fefefe"
"""Of numbers upon colours: neither black nor white, which a page in the dark swaps."""

Maps = dict[str, Any]
"""Percentages [layer, level] by title; NaN where there is no result."""


def layers_figure(results: Sequence[Result]) -> Figure:
    """Return heat maps, means over seeds: densities first, then dead neurons.

    Methods whose numbers are the same share one map.

    Args:
      results: at least one, each with its layers, of methods that prune.
    """
    densities = _maps(results, lambda layer: 100 * layer.kept / layer.size)
    dead = _maps(results, lambda layer: 100 * layer.dead / max(layer.neurons, 1))
    # Colours are logarithmic: a layer that kept nothing has none.
    least = min(values[values > 0].min(initial=50.0) for values in densities.values())
    kinds: tuple[tuple[str, Maps, Any], ...] = (
        ("Density of each layer (%)", densities, LogNorm(least, 100)),
        ("Dead neurons of each layer (%)", dead, Normalize(0, 100)),
    )
    names = [layer.name for layer in results[0].layers]
    kept = {result.trial.level: 100 * result.kept for result in results}
    columns = min(COLUMNS, max(len(densities), len(dead)))
    # Each kind begins a new row of maps.
    rows = [-(-len(maps) // columns) for _, maps, _ in kinds]
    height = 0.24 * len(names) + 0.8
    size = max(2.1 * columns + 1.2, 5.0), sum(rows) * height + 0.6
    figure = Figure(figsize=size, layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=rows)
    for part, (title, maps, norm), count in zip(parts, kinds, rows, strict=True):
        panels = part.subplots(count, columns, squeeze=False, sharey=True)
        flat = list(panels.flat)
        for axes, (name, values) in zip(flat, maps.items(), strict=False):
            _heat(axes, values, norm)
            axes.set_title(name, fontsize=8)
            axes.set_xticks(
                np.arange(len(kept)) + 0.5, [f"{kept[level]:.2g}%" for level in sorted(kept)],
                rotation=60, fontsize=7,
            )  # fmt: skip
            axes.set_yticks(np.arange(len(names)) + 0.5, names, fontsize=7)
        for axes in flat[len(maps) :]:
            axes.set_axis_off()
        part.suptitle(f"{title}, by the share of all weights kept", fontsize=9, x=0.01, ha="left")
    return figure


def _maps(results: Sequence[Result], share: Callable[[LayerCount], float]) -> Maps:
    """Return maps by the methods that they hold for."""
    levels = sorted({result.trial.level for result in results})
    cells: dict[tuple[str, float], list[list[float]]] = {}
    for result in results:
        place = result.trial.way, result.trial.level
        cells.setdefault(place, []).append([share(layer) for layer in result.layers])
    blank = np.full(len(results[0].layers), np.nan)
    groups: list[tuple[list[str], Any]] = []
    for way in ways_of(results):
        columns = [np.mean(cells.get((way, level), [blank]), axis=0) for level in levels]
        values = np.stack(columns, axis=1)
        for names, other in groups:
            if np.allclose(values, other, equal_nan=True):
                names.append(way)
                break
        else:
            groups.append(([way], values))
    return {_title(names, len(groups)): values for names, values in groups}


def _title(names: Sequence[str], groups: int) -> str:
    if groups == 1 and len(names) > 1:
        return "every method"
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more alike"


def _heat(axes: Any, values: Any, norm: Any) -> None:
    axes.pcolormesh(values, norm=norm, cmap=colormaps["viridis"])
    axes.set_ylim(len(values), 0)
    axes.tick_params(length=2)
    for (y, x), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(
                x + 0.5, y + 0.5, _number(value), ha="center", va="center", fontsize=6,
                color=INK if norm(value) > 0.5 else PAPER,
            )  # fmt: skip


def _number(percent: float) -> str:
    """Three characters or so, which fit a cell."""
    if percent == 0 or percent >= 9.95:
        return f"{percent:.0f}"
    return f"{percent:.1f}" if percent >= 0.995 else f"{percent:.2g}"[:5]

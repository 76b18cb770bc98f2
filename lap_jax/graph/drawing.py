"""A picture of a graph."""

from __future__ import annotations

import os
from pathlib import Path
from xml.sax.saxutils import escape

from lap_jax.files import write_atomically
from lap_jax.graph.layers import IDENTITY, Layer
from lap_jax.graph.structure import Structure

_WIDTH, _HEIGHT, _GAP, _ROW = 210, 34, 30, 62


def draw(graph: Structure, path: str | os.PathLike[str]) -> None:
    """Write a graph as SVG: inputs at the top, layers as boxes, junctions as rounded ones.

    Raises:
      OSError: if the file cannot be written; nothing is half-written.
    """
    write_atomically(Path(path), svg(graph).encode())


def svg(graph: Structure) -> str:
    """Return a graph as SVG."""
    rows = _rows(graph)
    most = max(len(row) for row in rows)
    places: dict[str, tuple[float, float]] = {}
    width = most * (_WIDTH + _GAP) + 2 * _GAP
    for level, row in enumerate(rows):
        start = (width - len(row) * (_WIDTH + _GAP) + _GAP) / 2
        for index, name in enumerate(row):
            places[name] = (start + index * (_WIDTH + _GAP), _GAP + level * _ROW)
    height = _GAP + len(rows) * _ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for edge in graph.edges:
        if IDENTITY in (edge.source, edge.target):
            continue
        x, y = places[edge.source]
        end_x, end_y = places[edge.target]
        if 0 < end_y - y <= _ROW:
            x, y, end_x = x + _WIDTH / 2, y + _HEIGHT, end_x + _WIDTH / 2
            out, bend = 0.0, (end_y - y) / 2
        else:  # around the boxes between, from side to side
            x, y, end_x, end_y = x + _WIDTH, y + _HEIGHT / 2, end_x + _WIDTH, end_y + _HEIGHT / 2
            out, bend = 2.0 * _GAP, 0.0
        parts.append(
            f'<path d="M{x:.0f},{y:.0f} C{x + out:.0f},{y + bend:.0f} {end_x + out:.0f},'
            f'{end_y - bend:.0f} {end_x:.0f},{end_y:.0f}" fill="none" stroke="#888"/>'
        )
    for name, (x, y) in places.items():
        parts.append(_box(graph, name, x, y))
    return "\n".join([*parts, "</svg>", ""])


def _box(graph: Structure, name: str, x: float, y: float) -> str:
    part = graph.parts[name]
    if isinstance(part, Layer):
        lost = any(name in (*barrier.before, *barrier.after) for barrier in graph.barriers)
        fill = "#eee" if name in graph.pinned else "#fde0dc" if lost else "#dbe9f6"
        second = "x".join(map(str, part.shape)) + (f", {part.norm}" if part.norm else "")
        corner = 3
    else:
        fill, corner = "#f6efd9", _HEIGHT // 2
        second = ", ".join(map(str, part.factors)) or f"{part.size} channels"
    lines = [_short(name), _short(second)]
    middle = x + _WIDTH / 2
    texts = "".join(
        f'<text x="{middle:.0f}" y="{y + 14 + 13 * row:.0f}" text-anchor="middle"'
        f"{' fill=' + chr(34) + '#555' + chr(34) if row else ''}>{escape(line)}</text>"
        for row, line in enumerate(lines)
    )
    title = f"<title>{escape(f'{name}: {second}')}</title>"
    return (
        f'<g>{title}<rect x="{x:.0f}" y="{y:.0f}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'rx="{corner}" fill="{fill}" stroke="#555"/>{texts}</g>'
    )


def _short(text: str, most: int = 30) -> str:
    return text if len(text) <= most else "…" + text[1 - most :]


def _rows(graph: Structure) -> list[list[str]]:
    """Return names by level: below all that leads there."""
    levels: dict[str, int] = {}
    order = [*graph.parts]
    for _ in order:  # as often as the longest path at most; a loop is cut off
        before = dict(levels)
        for name in order:
            sources = [edge.source for edge in graph.into(name) if edge.source != IDENTITY]
            known = [levels[source] for source in sources if source in levels and source != name]
            level = max(known, default=-1) + 1
            levels[name] = min(level, len(order))
        if before == levels:
            break
    rows: dict[int, list[str]] = {}
    for name, level in levels.items():
        rows.setdefault(level, []).append(name)
    return [rows[level] for level in sorted(rows)]

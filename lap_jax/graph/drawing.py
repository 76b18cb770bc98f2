"""A picture of a graph."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path

from lap_jax.files.container import write_atomically
from lap_jax.graph.layers import IDENTITY, Layer
from lap_jax.graph.structure import Structure
from lap_jax.tables import distinct

_WIDTH, _HEIGHT, _GAP, _ROW = 210, 34, 30, 62
_LANE, _TURN = 10, 12
_LETTERS = 30


def draw(graph: Structure, path: str | os.PathLike[str]) -> None:
    """Write a graph as SVG: inputs at the top, layers as boxes, junctions as rounded ones.

    Raises:
      OSError: if the file cannot be written; nothing is half-written.
    """
    write_atomically(Path(path), svg(graph).encode())


def svg(graph: Structure) -> str:
    """Return a graph as SVG."""
    places, right = _places(graph)
    names = distinct(list(graph.parts), _LETTERS)
    boxes = [_box(graph, name, names[name], x, y) for name, (x, y) in places.items()]
    lines, width = _lines(graph, places, right)
    height = max(y for _, y in places.values()) + _ROW
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *lines,
            *boxes,
            "</svg>",
            "",
        ]
    )


def _places(graph: Structure) -> tuple[dict[str, tuple[int, int]], list[int]]:
    """Return the upper left corner of each box, and how far right each row reaches."""
    rows = _rows(graph)
    most = max(len(row) for row in rows)
    width = most * (_WIDTH + _GAP) + _GAP
    places: dict[str, tuple[int, int]] = {}
    right = []
    for level, row in enumerate(rows):
        start = (width - len(row) * (_WIDTH + _GAP) + _GAP) // 2
        for index, name in enumerate(row):
            places[name] = (start + index * (_WIDTH + _GAP), _GAP + level * _ROW)
        right.append(start + len(row) * (_WIDTH + _GAP) - _GAP)
    return places, right


def _lines(
    graph: Structure, places: dict[str, tuple[int, int]], right: list[int]
) -> tuple[list[str], int]:
    """Return a line for each edge, and the width that boxes and lines take.

    An edge to the next row goes straight. Others would run behind boxes: they leave downwards into
    the gap between two rows, go down a lane to the right of all rows that they pass, and come in
    from the gap above their target. Lanes are shared by edges that do not meet.
    """
    lines, far = [], max(right)
    taken: list[tuple[int, int, int]] = []
    for edge in graph.edges:
        if IDENTITY in (edge.source, edge.target):
            continue
        (x, y), (end_x, end_y) = places[edge.source], places[edge.target]
        x, y, end_x = x + _WIDTH // 2, y + _HEIGHT, end_x + _WIDTH // 2
        if 0 < end_y - y <= _ROW:
            bend = (end_y - y) // 2
            curve = f"C{x},{y + bend} {end_x},{end_y - bend} {end_x},{end_y}"
        else:
            first, last = sorted((y // _ROW, end_y // _ROW))
            lane = max(right[first : last + 1]) + _LANE
            while any(lane == at and first <= to and last >= since for at, since, to in taken):
                lane += _LANE
            taken.append((lane, first, last))
            far = max(far, lane)
            down, up = y + _TURN, end_y - _TURN
            # The line leaves and comes in at the right half of a box, beside the straight ones.
            x, end_x = x + _WIDTH // 4, end_x + _WIDTH // 4
            curve = f"V{down} H{lane} V{up} H{end_x} V{end_y}"
        lines.append(f'<path d="M{x},{y} {curve}" fill="none" stroke="#888"/>')
    return lines, far + _GAP


def _box(graph: Structure, name: str, short: str, x: int, y: int) -> str:
    part = graph.parts[name]
    if isinstance(part, Layer):
        lost = any(name in (*barrier.before, *barrier.after) for barrier in graph.barriers)
        fill = "#eee" if name in graph.pinned else "#fde0dc" if lost else "#dbe9f6"
        second = "x".join(map(str, part.shape)) + (f", {part.norm}" if part.norm else "")
        corner = 3
    else:
        fill, corner = "#f6efd9", _HEIGHT // 2
        second = ", ".join(map(str, part.factors)) or f"{part.size} channels"
        if graph.ends_at_positions(name):
            second = "ends here: it weighs positions"
    lines = [short, distinct([second], _LETTERS)[second]]
    middle = x + _WIDTH // 2
    texts = "".join(
        f'<text x="{middle}" y="{y + 14 + 13 * row}" text-anchor="middle"'
        f"{' fill=' + chr(34) + '#555' + chr(34) if row else ''}>{escape(line)}</text>"
        for row, line in enumerate(lines)
    )
    title = f"<title>{escape(f'{name}: {second}')}</title>"
    return (
        f'<g>{title}<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'rx="{corner}" fill="{fill}" stroke="#555"/>{texts}</g>'
    )


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

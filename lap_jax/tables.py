"""Plain text tables, and what stands in them."""

from __future__ import annotations

import itertools
import os
import re
import textwrap
from collections.abc import Sequence

MOST = 100
"""Columns of a terminal that a table is to fit."""


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    """Align ``rows`` under ``header``; columns whose index is in ``right``, to the right.

    Where a table is wider than `MOST`, its widest columns go on in further lines.
    """
    lines = [list(line) for line in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    least = [max(len(word) for word in title.split()) for title in header]
    while sum(widths) + 2 * (len(widths) - 1) > MOST and widths != least:
        widest = max(range(len(widths)), key=lambda column: widths[column] - least[column])
        if widths[widest] <= max(least[widest], 12):
            break
        widths[widest] -= 1

    def render(line: Sequence[str]) -> list[str]:
        cells = [_wrapped(cell, width) for cell, width in zip(line, widths, strict=True)]
        return [
            "  ".join(
                part.rjust(width) if column in right else part.ljust(width)
                for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
                for part in [cell[number] if number < len(cell) else ""]
            ).rstrip()
            for number in range(max(map(len, cells)))
        ]

    rule = "  ".join("-" * width for width in widths)
    first, *others = map(render, lines)
    return "\n".join([*first, rule, *(line for several in others for line in several)])


def _wrapped(cell: str, width: int) -> list[str]:
    """Break a cell at spaces and, in paths, behind slashes."""
    if len(cell) <= width:
        return [cell]
    words = re.sub(r"(?<=/)(?=[^ ])", "\0", cell).replace("\0", "\u200b")
    found, line = [], ""
    for word in re.split(r"(?<= )|(?<=\u200b)", words):
        if len((line + word).replace("\u200b", "").rstrip()) > width and line:
            found.append(line)
            line = ""
        line += word
    whole = [part.replace("\u200b", "").rstrip() for part in (*found, line)]
    return [piece for part in whole for piece in textwrap.wrap(part, width) or [""]]


def distinct(names: Sequence[str], most: int) -> dict[str, str]:
    """Cut names to a length in such a way that different ones stay different.

    Of a long name its end is kept and, where ends are equal, as much of its beginning as it takes;
    what long names have in common in front is left out.
    """
    long = list(dict.fromkeys(name for name in names if len(name) > most))
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*long, strict=False))
    shared = "".join(letters[0] for letters in same) if len(long) > 1 else ""
    shared = shared[: shared.rfind("/") + 1]
    found: dict[str, str] = {}
    for head in range(most - 1):
        found = {name: name for name in names}
        for name in long:
            tail = name[len(name) - (most - 1 - head) :]
            found[name] = f"{name[len(shared) :][:head]}…{tail}"
        if len(set(found.values())) == len(found):
            return found
    return {name: name for name in names}


def source_line(where: str) -> str:
    """Return ``file:line (function)``, the file as seen from the current folder or its package."""
    path, colon, rest = where.partition(":")
    rest = re.sub(r"^(\d+):\d+", r"\1", rest)  # without the column
    inside = path.replace(os.sep, "/").rpartition("/site-packages/")[2]
    if inside != path:
        return inside + colon + rest
    here = os.getcwd() + os.sep
    return (path[len(here) :] if path.startswith(here) else path) + colon + rest

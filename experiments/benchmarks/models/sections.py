"""What the tables of models share: one a library, with the versions that its rows are of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def sections(
    rows: Sequence[Any], header: Sequence[str], cells: Callable[[Any], Sequence[str]]
) -> list[str]:
    """Return Markdown, part by part: of each library a heading, versions and a table.

    Args:
      rows: with a ``library`` and ``versions``.
      header: of the columns; the first two are names, the others numbers.
      cells: gives those of a row.
    """
    parts = []
    for library in dict.fromkeys(row.library for row in rows):
        own = [row for row in rows if row.library == library]
        versions = dict.fromkeys(map(_versions, own))
        lines = [header, ("---", "---", *["---:"] * (len(header) - 2)), *map(cells, own)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts += [f"## {library}", "; ".join(versions), table]
    return parts


def _versions(row: Any) -> str:
    return ", ".join(f"{name} {version}" for name, version in row.versions.items())

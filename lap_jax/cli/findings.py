"""What a command found out, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Value = str | int | float | tuple[int, ...] | None
"""In a table: a text, a count, a fraction, a shape, or nothing known."""


@dataclass(frozen=True)
class Table:
    """Rows under a header.

    Attributes:
      name: what the rows are, in the plural.
      header: of the columns.
      rows: each as long as the header.
    """

    name: str
    header: tuple[str, ...]
    rows: Sequence[tuple[Value, ...]]


@dataclass(frozen=True)
class Findings:
    """What a command found out.

    Attributes:
      command: its name.
      subject: what it was asked about.
      facts: by name, in the order in which they are shown.
      tables: details.
      warnings: what there is to know before the result is used, a sentence each.
      differs: whether `diff` found a difference.
      picture: of the graph, SVG; for the page.
      written: files.
    """

    command: str
    subject: str
    facts: dict[str, Value]
    tables: tuple[Table, ...] = ()
    warnings: tuple[str, ...] = ()
    differs: bool = False
    picture: str = field(default="", repr=False)
    written: tuple[Path, ...] = ()


def as_text(findings: Findings) -> str:
    """Return tables, facts and warnings, for a terminal."""
    parts = [
        aligned([table.header, *(tuple(map(shown, row)) for row in table.rows)], numeric(table))
        for table in findings.tables
        if table.rows
    ]
    facts = [(name, shown(value)) for name, value in findings.facts.items()]
    parts.append(aligned(facts, ()))
    parts.append("\n".join(f"warning: {each}" for each in findings.warnings))
    return "\n\n".join(part for part in parts if part)


def as_json(findings: Findings) -> str:
    """Return one JSON object: facts, tables as lists of objects, warnings, files."""
    told: dict[str, Any] = {
        "command": findings.command,
        "subject": findings.subject,
        "facts": {_key(name): value for name, value in findings.facts.items()},
    }
    for table in findings.tables:
        keys = list(map(_key, table.header))
        told[_key(table.name)] = [dict(zip(keys, row, strict=True)) for row in table.rows]
    told["warnings"] = list(findings.warnings)
    if findings.command == "diff":
        told["differs"] = findings.differs
    told["written"] = list(map(str, findings.written))
    return json.dumps(told, indent=2)


def shown(value: Value) -> str:
    """Return a value as it stands in a table: counts with commas, fractions in percent."""
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return "x".join(map(str, value)) or "1"
    if isinstance(value, float):
        return f"{value:.2%}"
    return value if isinstance(value, str) else f"{value:,}"


def numeric(table: Table) -> tuple[int, ...]:
    """Return the columns that hold numbers."""
    return tuple(
        column
        for column in range(len(table.header))
        if any(isinstance(row[column], (int, float)) for row in table.rows)
    )


def aligned(lines: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    """Return lines of a table, columns side by side; those in ``right`` to the right."""
    if not lines:
        return ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _key(name: str) -> str:
    return name.replace(" ", "_").replace("-", "_")

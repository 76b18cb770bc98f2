"""The rows as Markdown, and as a file that a later run goes on with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from experiments.benchmarks.models.row import SPARSITY, Row
from experiments.benchmarks.models.sections import sections
from experiments.benchmarks.models.shrunk import Shrunk

R = TypeVar("R", Row, Shrunk)

LIMIT = 10.0
"""Seconds from trace to masks that no small model is to need."""
LISTED = 12
"""Lines of a model's list at most."""

HEADER = (
    "Model", "dtype", "Parameters", "Kernels", "Not read", "Others", "Barriers", "Edges agree",
    "Trace", "First masks", "Later",
)  # fmt: skip
INTRODUCTION = f"""\
Models of other libraries, small, with made-up weights: does `lap_jax.trace` read them, and read
them right? *Kernels*: leaves that are layers of the graph. *Not read*: weights that are none, as
`Graph.unread` lists them (most are positions, which are added to activations), in bold how many
leaves that are none the oracle sees meet an activation as kernels do. *Others*: biases and scales
of two axes or more that the graph lists, too; a leaf in no list is under "What differs".
*Barriers*: places where lookahead stops. *Edges agree*: of the pairs of layers that are neighbours
in the graph or by perturbation, those where all channels that were tried go the same way; those
that a barrier keeps apart are counted after a plus. *As float32*: the graph is that of the row in
float32, and so are the kernels; then all else is, too. Seconds are those of the CPU: of the trace,
and of masks of LAP at {SPARSITY:.0%}."""


def table(rows: Sequence[Row]) -> str:
    """Return Markdown: a table for each library, then what is wrong, model by model."""
    parts = ["# Models", INTRODUCTION, _summary(rows), *sections(rows, HEADER, _cells)]
    details = [text for row in rows for text in _details(row)]
    if details:
        parts += ["## What differs", "\n".join(details)]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_json(rows: Sequence[Row | Shrunk]) -> str:
    """Return all of the rows as text."""
    return json.dumps([asdict(row) for row in rows], indent=1) + "\n"


def from_json(text: str, kind: type[R]) -> list[R]:
    """Return rows of a kind from text.

    Raises:
      ValueError: if it is no text of `to_json`, or of another kind.
    """
    try:
        return [kind(**{name: _frozen(value) for name, value in row.items()})
                for row in json.loads(text)]  # fmt: skip
    except (TypeError, AttributeError) as error:
        raise ValueError(f"rows of another version ({error})") from None


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _summary(rows: Sequence[Row]) -> str:
    tried = [row for row in rows if not row.missing]
    fine = [row for row in tried if not row.error]
    whole = [row for row in fine if _whole(row)]
    part = [row for row in tried if row.error and row.layers]
    slow = [f"{row.library} {row.model} ({row.seconds:.0f} s)" for row in tried
            if row.seconds > LIMIT]  # fmt: skip
    lines = [
        f"{len(tried)} models: {len(whole)} read whole and as the oracle sees them, "
        f"{len(fine) - len(whole)} with something lost or stopped, {len(part)} not checked to "
        f"the end, {len(tried) - len(fine) - len(part)} not at all. "
        f"Edges: {sum(row.agree for row in fine)} of {sum(row.edges for row in fine)} agree, "
        f"{sum(row.stopped for row in fine)} are behind barriers. {sum(row.same for row in fine)} "
        "rows in bfloat16 have the graph of float32.",
        f"In no list: {sum(len(row.unsaid) for row in tried)} leaves.",
        f"More than {LIMIT:.0f} s from trace to masks: {', '.join(slow) or 'none'}.",
    ]
    return "\n".join(lines)


def _whole(row: Row) -> bool:
    """Return whether all is read that data meet; positions that are added are not."""
    return not (row.lost or row.unsaid or row.differ or row.barriers or row.error)


def _cells(row: Row) -> tuple[str, ...]:
    if row.missing or (row.error and not row.layers):
        return (row.model, row.dtype, _text(row.missing or row.error), *[""] * (len(HEADER) - 3))
    unread = str(len(row.unread)) + (f", **{len(row.lost)}**" if row.lost else "")
    stopped = f" + {row.stopped}" if row.stopped else ""
    edges = f"{row.agree}/{row.edges - row.stopped}" if row.edges else "-"
    edges = "as float32" if row.same else edges
    return (
        row.model, row.dtype, f"{row.parameters:,}", str(row.kernels), unread,
        str(row.others), str(len(row.barriers)), edges + stopped,
        *(f"{value:.2f}" if value else "-" for value in (row.trace, row.first, row.later)),
    )  # fmt: skip


def _details(row: Row) -> list[str]:
    lists = {
        "error": [row.error] if row.error and row.layers else [],
        "in no list": row.unsaid,
        "not read": () if _whole(row) else row.unread,
        "seen by the oracle as kernels": row.lost,
        "barriers": row.barriers,
        "edges": row.differ,
    }
    lines = [f"- {row.library} {row.model}, {row.dtype}"]
    for title, texts in lists.items():
        if texts:
            more = [f"and {len(texts) - LISTED} more"] if len(texts) > LISTED else []
            lines.append(f"  - {title}: " + "; ".join([*map(_text, texts[:LISTED]), *more]))
    return lines if len(lines) > 1 else []


def _text(text: str) -> str:
    return text.replace("|", "\\|")

"""Everything that a run folder shows: tables, pictures, the page."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from experiments.files import write_atomically
from experiments.reporting.figures import pictures, png, svg
from experiments.reporting.page import page
from experiments.reporting.rendering import Sheet, latex_file, plain
from experiments.reporting.sentences import claim, sentence, verdicts
from experiments.reporting.tables import (
    heading,
    network_name,
    schedule_of,
    schedules,
    sheets,
    table,
)
from experiments.store import Result, Store, by_run


def text(results: Sequence[Result], width: int = 0) -> str:
    """Return the tables of each run, and what they say, level by level.

    Args:
      results: of any runs.
      width: of the terminal that it is for; 0: none, then it is Markdown.
    """
    parts = []
    for run in by_run(results):
        told = [f"- {each}" for each in verdicts(run)]
        if width:
            head, *tables = table(run, partial(plain, width=width)).split("\n\n", 1)
            said = ["\n".join(map(partial(_wrapped, width=width), told))]
            parts += [_wrapped(head, width), *tables, _wrapped(claim(run), width), *said]
        else:
            parts += [table(run), claim(run), "\n".join(told)]
    return "\n\n".join(filter(None, parts))


def _wrapped(line: str, width: int) -> str:
    indent = "  " * line.startswith("- ")
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False)


def write(results: Sequence[Result], folder: Path) -> str:
    """Write all that there is to show of a folder; each file appears whole or not at all.

    The files are results.csv, table.md, tables.tex, index.html and, as PNG and SVG, what
    `figures.pictures` names; where a folder holds several runs, with their number.

    Returns:
      What there is to say: the text, where the page is, one sentence per run.
    """
    runs = by_run(results)
    write_csv(results, folder / "results.csv")
    shown = text(results)
    write_atomically(folder / "table.md", shown.encode())
    every = [*schedules(results), *(sheet for run in runs for sheet in _captioned(run))]
    write_atomically(folder / "tables.tex", latex_file(every).encode())
    places = [f"page: {folder / 'index.html'}"]
    for number, run in enumerate(runs, 1):
        for kind, figure in pictures(run).items():
            name = f"{kind}-{number}" if len(runs) > 1 else kind
            write_atomically(folder / f"{name}.png", png(figure))
            write_atomically(folder / f"{name}.svg", svg(figure))
            if kind == "accuracy":
                places.append(f"picture: {folder / name}.png")
    names = (f"{run[0].trial.model} on {run[0].trial.dataset}" for run in runs)
    content = page(results, Store(folder).made_with(), ", ".join(dict.fromkeys(names)))
    write_atomically(folder / "index.html", content.encode())
    told = []
    for run in runs:
        same = run[0].trial
        name = f"{same.model} ({same.activation}), {same.schedule}: " if len(runs) > 1 else ""
        told.append(f"{name}{sentence(run)}")
    return "\n".join([shown, "", *places, "", *told])


def _captioned(run: Sequence[Result]) -> list[Sheet]:
    """Return the tables of a run with titles that stand alone, as captions in a paper do."""
    found = sheets(run)
    trial = run[0].trial
    name = f"{network_name(trial)}, {schedule_of(trial)}"
    return [
        *(sheet._replace(title=heading(run)) for sheet in found[:1]),
        *(sheet._replace(title=f"{sheet.title}: {name}") for sheet in found[1:]),
    ]


def write_csv(results: Sequence[Result], path: Path) -> None:
    """Write one line per result and evaluation, settings first."""
    out = io.StringIO()
    rows = [
        asdict(result.trial)
        | {"kept": result.kept, "effective": result.effective}
        | {"multiply_adds": result.multiply_adds, "seconds": result.seconds}
        | evaluation._asdict()
        for result in results
        for evaluation in result.evaluations
    ]
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, out.getvalue().encode())

"""One HTML page of a run folder: tables, pictures, sentences; it opens without a network."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import asdict

from experiments.reporting.figures import pictures, svg
from experiments.reporting.rendering import page_table
from experiments.reporting.reproduce import command_of
from experiments.reporting.sentences import claim, verdicts
from experiments.reporting.tables import (
    count_of,
    heading,
    network_name,
    schedule_of,
    schedules,
    sheets,
)
from experiments.store import Result, by_run
from experiments.trial import DEFAULTS

CAPTIONS = {
    "accuracy": "On the test set, after and before retraining",
    "effective": "By the weights on a path from input to output",
    "gap": "On the test set, and how much less well than on the training set",
    "curves": "On the test set, while it is retrained",
    "layers": "What is left of each layer",
}

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --line: #0002; --quiet: #666; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e4; --paper: #17181a; --line: #fff3; --quiet: #999; }
}
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
.scroll { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap;
  text-align: right; vertical-align: top; line-height: 1.3; }
th[scope=row] { text-align: left; font-weight: 500; position: sticky; left: 0;
  background: var(--paper); }
.quoted, .level { color: var(--quiet); } .quoted { font-style: italic; }
.level th { font-weight: 400; } td small { color: var(--quiet); }
figure { margin: 1.5rem 0; overflow-x: auto; }
figure svg { display: block; width: 100%; height: auto; min-width: 36rem; }
figcaption, summary { font-weight: 600; font-size: .85rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; margin: .5rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; font-size: .85rem; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
.quiet { color: var(--quiet); font-size: .85rem; }
"""


def page(results: Sequence[Result], made_with: Sequence[dict[str, str]], title: str) -> str:
    """Return the page.

    Args:
      results: of one run or several.
      made_with: what they were made with: versions, device, commit.
      title: of the page.
    """
    runs = by_run(results)
    parts = [f"<h1>{html.escape(title)}</h1>", _list(_provenance(made_with))]
    if together := schedules(results):
        parts += ["<h2>Schedules</h2>", *map(page_table, together)]
        parts += [
            f"<p>{html.escape(f'{_name(run)}: {told}')}</p>" for run in runs if (told := claim(run))
        ]
    parts += [_section(run, number) for number, run in enumerate(runs, 1)]
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _section(results: Sequence[Result], number: int) -> str:
    parts = [f"<h2>{html.escape(_name(results))}</h2>", f"<p>{html.escape(heading(results))}</p>"]
    if told := claim(results):
        parts.append(f"<p>{html.escape(told)}</p>")
    found = sheets(results)
    drawn = {
        kind: f"<figure><figcaption>{CAPTIONS[kind]}</figcaption>"
        f"{_inline(svg(figure).decode(), f'{number}-{kind}-')}</figure>"
        for kind, figure in pictures(results).items()
    }
    # What the paper shows comes first, and the details after it.
    parts += [*map(page_table, found[:1]), drawn.pop("accuracy", "")]
    if levels := verdicts(results):
        told = "".join(f"<li>{html.escape(each)}</li>" for each in levels)
        parts.append(
            "<details open><summary>Level by level (the spread: both standard deviations together)"
            f"</summary><ul>{told}</ul></details>"
        )
    parts += [*map(page_table, found[1:]), *drawn.values()]
    settings = {
        name.replace("_", " "): f"{value:,}" if isinstance(value, int) else str(value)
        for name, value in asdict(results[0].trial.run).items()
        if value and (value != DEFAULTS[name] or name in ("dtype", "schedule"))
    }
    hours = sum(result.seconds for result in results) / 3600
    settings["time"] = f"{hours:.2f} hours for {count_of(len(results), 'network')}"
    parts.append(
        f"<details open><summary>To make it again</summary><pre>{html.escape(command_of(results))}"
        f"</pre>{_list(settings)}</details>"
    )
    return "".join(parts)


def _name(results: Sequence[Result]) -> str:
    trial = results[0].trial
    return f"{network_name(trial)}, {schedule_of(trial)}"


def _provenance(made_with: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return for each name all values that results were made with."""
    names = dict.fromkeys(name for made in made_with for name in made)
    values = {name: dict.fromkeys(made.get(name, "") for made in made_with) for name in names}
    return {name: ", ".join(filter(None, found)) for name, found in values.items() if any(found)}


def _list(terms: dict[str, str]) -> str:
    told = (f"<dt>{html.escape(name)}</dt><dd>{html.escape(t)}</dd>" for name, t in terms.items())
    return f"<dl>{''.join(told)}</dl>"


def _inline(drawing: str, prefix: str) -> str:
    """Return an SVG to stand in a page: no prologue, names of its own, the page's own colours."""
    # What has no colour of its own, such as text, takes that of the picture.
    drawing = '<svg fill="currentColor"' + drawing[drawing.index("<svg") + len("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'id="', f'id="{prefix}', drawing)
    drawing = re.sub(r'href="#', f'href="#{prefix}', drawing)
    drawing = re.sub(r"url\(#", f"url(#{prefix}", drawing)
    return drawing.replace("#ffffff", "var(--paper)").replace("#000000", "currentColor")

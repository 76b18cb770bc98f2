"""What a command found out as one HTML page, which opens without a network."""

from __future__ import annotations

import html

from lap_jax import __version__
from lap_jax.cli.findings import Findings, Table, Value, numeric, shown

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --line: #0002; --quiet: #666;
  --kept: #3b7dbb; --rest: #0001; --warn: #a15c00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e4; --paper: #17181a; --line: #fff3; --quiet: #999; --kept: #6aa9e0;
    --rest: #fff2; --warn: #f0b35a; }
}
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 64rem; padding: 1rem;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem .2rem 0; border-bottom: 1px solid var(--line); white-space: nowrap;
  text-align: left; }
.number { text-align: right; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1.2rem; }
dt { color: var(--quiet); } dd { margin: 0; font-variant-numeric: tabular-nums; }
.warnings li { color: var(--warn); }
.bar { background: var(--rest); height: .6rem; width: 8rem; }
.bar div { background: var(--kept); height: 100%; }
figure { margin: 1rem 0; overflow: auto; max-height: 48rem; }
footer { color: var(--quiet); font-size: .85rem; margin-top: 2rem; }
"""


def page(findings: Findings, command: str) -> str:
    """Return the page.

    Args:
      findings: of any command.
      command: line that made it.
    """
    title = f"lap-jax {findings.command}: {findings.subject}"
    facts = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(shown(value))}</dd>"
        for name, value in findings.facts.items()
    )
    parts = [f"<h1>{html.escape(title)}</h1><dl>{facts}</dl>"]
    if findings.warnings:
        told = "".join(f"<li>{html.escape(each)}</li>" for each in findings.warnings)
        parts.append(f"<h2>Warnings</h2><ul class=warnings>{told}</ul>")
    parts += [_table(table) for table in findings.tables if table.rows]
    if findings.picture:
        picture = findings.picture[findings.picture.index("<svg") :]
        parts.append(f"<h2>Graph</h2><figure>{picture}</figure>")
    parts.append(
        f"<footer>lap_jax {html.escape(__version__)}: <code>{html.escape(command)}</code></footer>"
    )
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _table(table: Table) -> str:
    right = numeric(table)
    # What is left of a layer is a bar, too.
    share = table.header.index("sparsity") if "sparsity" in table.header else None
    head = "".join(_cell("th", name, column in right) for column, name in enumerate(table.header))
    lines = []
    for row in table.rows:
        cells = "".join(_cell("td", value, column in right) for column, value in enumerate(row))
        if share is not None:
            removed = row[share]
            cells += _bar(1 - removed if isinstance(removed, (int, float)) else 0.0)
        lines.append(f"<tr>{cells}</tr>")
    if share is not None:
        head += "<th>left</th>"
    return (
        f"<h2>{html.escape(table.name.capitalize())}</h2><div class=scroll><table><thead><tr>{head}"
        f"</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(tag: str, value: Value, right: bool) -> str:
    mark = " class=number" if right else ""
    return f"<{tag}{mark}>{html.escape(shown(value))}</{tag}>"


def _bar(fraction: float) -> str:
    return f'<td><div class=bar><div style="width:{fraction:.2%}"></div></div></td>'

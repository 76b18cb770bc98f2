"""Tables as Markdown, LaTeX and HTML, and as plain text for a terminal."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """A row of a table: its name and its cells; ``quoted`` where they are somebody else's."""

    name: str
    cells: tuple[str, ...]
    quoted: bool = False


class Sheet(NamedTuple):
    """A table: what it shows, its column heads, its rows; ``levels`` say more of the columns.

    What follows the first space of a cell is a note, which may stand below the number.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    levels: tuple[Row, ...] = ()


def markdown(sheet: Sheet) -> str:
    """Return the table as Markdown, without its title."""
    lines = [
        f"| | {' | '.join(sheet.heads)} |",
        "|---|" + "---:|" * len(sheet.heads),
    ]
    lines += [f"| {row.name} | {' | '.join(row.cells)} |" for row in sheet.levels]
    for row in sheet.rows:
        cells = [f"*{cell}*" if row.quoted and cell != "-" else cell for cell in row.cells]
        name = f"*{row.name}*" if row.quoted else row.name
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plain(sheet: Sheet, width: int) -> str:
    """Return the table in aligned columns, without its title.

    Args:
      sheet: the table.
      width: of the terminal; columns that do not fit stand below, after the names once more.
    """
    rows = (*sheet.levels, *sheet.rows)
    names = ["", *(f"  {row.name}" if row.quoted else row.name for row in rows)]
    cells = zip(*(row.cells for row in rows), strict=True)
    columns = [[head, *own] for head, own in zip(sheet.heads, cells, strict=True)]
    first = max(map(len, names))
    blocks: list[list[list[str]]] = [[]]
    room = width - first
    for column in columns:
        size = 2 + max(map(len, column))
        if size > room and blocks[-1]:
            blocks.append([])
            room = width - first
        blocks[-1].append([cell.rjust(size) for cell in column])
        room -= size
    texts = []
    for block in blocks:
        lines = zip(names, zip(*block, strict=True), strict=True)
        texts.append("\n".join(f"{name.ljust(first)}{''.join(cells)}" for name, cells in lines))
    return "\n\n".join(texts)


def latex(sheet: Sheet) -> str:
    """Return the table as a LaTeX ``table`` with its title as the caption; needs booktabs."""
    lines = [
        r"\begin{table}",
        rf"  \caption{{{_latex(sheet.title)}}}",
        r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"  \begin{{tabular}}{{l{'r' * len(sheet.heads)}}}",
        r"    \toprule",
        rf"     & {' & '.join(map(_latex, sheet.heads))} \\",
    ]
    lines += [rf"    {' & '.join(map(_latex, (row.name, *row.cells)))} \\" for row in sheet.levels]
    lines.append(r"    \midrule")
    for row in sheet.rows:
        texts = [_latex(row.name), *map(_stacked, row.cells)]
        texts = [rf"\textit{{{text}}}" for text in texts] if row.quoted else texts
        lines.append(rf"    {' & '.join(texts)} \\")
    lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines)


def page_table(sheet: Sheet) -> str:
    """Return the table as HTML, its title as the caption."""
    heads = "".join(f"<th scope=col>{html.escape(head)}</th>" for head in sheet.heads)
    levels = "".join(_page_row(row, "level") for row in sheet.levels)
    rows = "".join(_page_row(row, "quoted" if row.quoted else "own") for row in sheet.rows)
    return (
        f"<div class=scroll><table><caption>{html.escape(sheet.title)}</caption>"
        f"<thead><tr><td></td>{heads}</tr>{levels}</thead><tbody>{rows}</tbody></table></div>"
    )


def _page_row(row: Row, kind: str) -> str:
    cells = (html.escape(cell).partition(" ") for cell in row.cells)
    told = (number + (f"<br><small>{note}</small>" if note else "") for number, _, note in cells)
    return (
        f"<tr class={kind}><th scope=row>{html.escape(row.name)}</th>"
        + "".join(f"<td>{each}</td>" for each in told)
        + "</tr>"
    )


def latex_file(sheets: Sequence[Sheet]) -> str:
    """Return several tables as one file, to be included in a document."""
    return "\n\n".join(["% needs \\usepackage{booktabs}", *map(latex, sheets)]) + "\n"


def _stacked(cell: str) -> str:
    """Put the note of a cell below its number, as the paper does: seven levels fit a page."""
    number, _, note = cell.partition(" ")
    return rf"\shortstack[r]{{{_latex(number)}\\{_latex(note)}}}" if note else _latex(number)


def _latex(text: str) -> str:
    for plain, marked in (
        ("\\", r"\textbackslash{}"), ("%", r"\%"), ("&", r"\&"), ("_", r"\_"), ("#", r"\#"),
        ("±", r"$\pm$"), ("“", "``"), ("”", "''"),
    ):  # fmt: skip
        text = text.replace(plain, marked)
    return text

"""A table in three languages."""

from xml.etree import ElementTree

from experiments.reporting.rendering import (
    Row,
    Sheet,
    latex,
    latex_file,
    markdown,
    page_table,
    plain,
)

ROWS = (Row("MP", ("1.0±0.1", "-")), Row("paper", ("2", "-"), True))
SHEET = Sheet("Error (%) of a & b", ("6%", "3%"), ROWS)


def test_one_sheet_in_three_languages() -> None:
    assert markdown(SHEET).splitlines()[2:] == ["| MP | 1.0±0.1 | - |", "| *paper* | *2* | - |"]
    text = latex(SHEET)
    assert r"\caption{Error (\%) of a \& b}" in text
    assert r"MP & 1.0$\pm$0.1 & - \\" in text
    assert r"\textit{paper} & \textit{2}" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert text.count("{") == text.count("}")
    assert "<td>1.0±0.1</td>" in page_table(SHEET)
    assert "&amp;" in page_table(SHEET)
    assert latex_file([SHEET, SHEET]).count(r"\toprule") == 2


def test_notes_and_levels_have_their_places() -> None:
    levels = (Row("density", ("5%", "-")),)
    sheet = Sheet("t", ("6%", "3%"), (Row("LAP", ("4.00±0.07 (-50.00%)", "5.00")),), levels)
    assert markdown(sheet).splitlines() == [
        "| | 6% | 3% |", "|---|---:|---:|", "| density | 5% | - |",
        "| LAP | 4.00±0.07 (-50.00%) | 5.00 |",
    ]  # fmt: skip
    text = latex(sheet)
    assert text.index(r"density & 5\% & - \\") < text.index(r"\midrule") < text.index("LAP")
    assert r"LAP & \shortstack[r]{4.00$\pm$0.07\\(-50.00\%)} & 5.00 \\" in text
    page = page_table(sheet)
    assert "<td>4.00±0.07<br><small>(-50.00%)</small></td><td>5.00</td>" in page
    assert page.index("<tr class=level>") < page.index("</thead>") < page.index("<tr class=own>")


def test_names_cannot_break_out_of_their_language() -> None:
    sheet = Sheet("a_b #1 \\ “c”", ("<b>",), (Row("x & <y>", ("1",)),))
    assert r"\caption{a\_b \#1 \textbackslash{} ``c''}" in latex(sheet)
    page = page_table(sheet).replace("=scroll", "='s'").replace("=col", "='c'")
    page = page.replace("=row", "='r'").replace("=own", "='o'")
    tree = ElementTree.fromstring(page)
    assert tree.findtext("table/thead/tr/th") == "<b>"
    assert tree.findtext("table/tbody/tr/th") == "x & <y>"


def test_columns_that_do_not_fit_a_terminal_stand_below() -> None:
    wide = plain(SHEET, 80).splitlines()
    assert wide == [
        "              6%  3%",
        "MP       1.0±0.1   -",
        "  paper        2   -",
    ]
    narrow = plain(SHEET, 17)
    assert narrow.splitlines() == [
        "              6%", "MP       1.0±0.1", "  paper        2", "",
        "         3%", "MP        -", "  paper   -",
    ]  # fmt: skip
    assert plain(SHEET, 1).count("MP") == 2  # a column each, however narrow

"""Columns of text stand under each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lap_jax.tables import text_table

CELLS = st.text("abc 1", min_size=1, max_size=6).map(str.strip).filter(bool)


def test_a_table_to_the_letter() -> None:
    found = text_table(("layer", "kept"), [("Conv_0", "7"), ("a", "1,024")], right=(1,))
    assert found.splitlines() == [
        "layer    kept",
        "------  -----",
        "Conv_0      7",
        "a       1,024",
    ]


@pytest.mark.parametrize("right", [(), (0, 2), (0, 1, 2)])
@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=4))
def test_every_cell_stands_in_its_column(
    right: tuple[int, ...], rows: list[tuple[str, str, str]]
) -> None:
    header, rule, *lines = text_table(rows[0], rows[1:], right).splitlines()
    widths = [len(dashes) for dashes in rule.split()]
    assert widths == [max(len(row[column]) for row in rows) for column in range(3)]
    starts = [sum(widths[:column]) + 2 * column for column in range(3)]
    for line, row in zip([header, *lines], rows, strict=True):
        assert line == line.rstrip()
        for column, (start, width, cell) in enumerate(zip(starts, widths, row, strict=True)):
            found = line[start : start + width]
            assert found.ljust(width) == (
                cell.rjust(width) if column in right else cell.ljust(width)
            )


def test_a_table_without_rows_is_its_header() -> None:
    assert text_table(("a", "bc"), [], ()) == "a  bc\n-  --"

"""Tables fit a terminal, and what is cut short stays distinct."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lap_jax.tables import MOST, distinct, source_line, text_table

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


def test_a_wide_table_goes_on_in_further_lines() -> None:
    several = ", ".join(f"block_{i}/attention/out" for i in range(12))
    text = text_table(("junction", "previous", "next"), [("sum 0", several, "a/" * 60)], right=())
    lines = text.splitlines()
    assert max(map(len, lines)) <= MOST
    columns = [lines[1].index("-", at) for at in (0, 8)]
    cells = [line[columns[1] :] for line in lines[2:]]
    found = " ".join(cells).replace(" ", "")
    assert all(f"block_{i}/attention/out" in found for i in range(12))
    assert found.replace(",", "").count("a/") >= 60


def test_what_cannot_be_narrower_stays() -> None:
    header = tuple(f"column_{i}_of_many" for i in range(12))
    rows = [tuple("x" for _ in header)]
    assert text_table(header, rows, right=()).splitlines()[0].split() == list(header)


def test_long_names_keep_their_ends_and_what_tells_them_apart() -> None:
    names = [f"encoder/stage_{i}/layer/0/convolution/kernel" for i in range(2)]
    found = distinct([*names, "short"], 20)
    assert found["short"] == "short"
    assert {len(found[name]) for name in names} == {20}
    assert len(set(found.values())) == 3
    assert all(found[name].endswith("/kernel") for name in names)


@given(st.lists(st.text("ab/", max_size=12), max_size=6), st.integers(2, 8))
def test_different_names_stay_different(names: list[str], most: int) -> None:
    found = distinct(names, most)
    assert set(found) == set(names)
    assert len(set(found.values())) == len(set(names))


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        (os.path.join(os.getcwd(), "models", "net.py") + ":3:4 (f)", "models/net.py:3 (f)"),
        ("/env/lib/site-packages/flax/linen/linear.py:9", "flax/linen/linear.py:9"),
        ("/elsewhere/net.py:3", "/elsewhere/net.py:3"),
        ("", ""),
    ],
)
def test_source_lines_are_seen_from_here(where: str, wanted: str) -> None:
    assert source_line(where) == wanted

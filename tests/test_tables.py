"""Tables fit a terminal, and what is cut short stays distinct."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lap_jax.tables import MOST, distinct, source_line, text_table


def test_columns_are_aligned() -> None:
    text = text_table(("name", "n"), [("a", "1"), ("long", "100")], right=(1,))
    assert text == "name    n\n----  ---\na       1\nlong  100"


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

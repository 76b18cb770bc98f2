"""The page: whole, without a network, and with nothing that a name could smuggle in."""

import re
from html.parser import HTMLParser

from lap_jax.cli.findings import Findings, Table
from lap_jax.cli.page import page

HOSTILE = "<script>alert('&')</script>"
ROWS = [(HOSTILE, (2, 3), 6, 0.75)]
FINDINGS = Findings(
    "prune", HOSTILE, {HOSTILE: HOSTILE, "kept": 6},
    (Table("layers", ("layer", "shape", "weights", "sparsity"), ROWS),
     Table("empty", ("a",), [])),
    (HOSTILE,), picture='<?xml?><svg xmlns="http://www.w3.org/2000/svg"><title>g</title></svg>',
)  # fmt: skip


class Reader(HTMLParser):
    """Tags that are open, and all text."""

    VOID = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_well_formed_and_shows_what_was_found() -> None:
    reader = Reader()
    reader.feed(page(FINDINGS, f"lap-jax prune '{HOSTILE}'"))
    assert reader.open == []
    assert "script" not in reader.seen
    assert reader.text.count(HOSTILE) == 7  # title, heading, name, value, warning, layer, command
    for told in ("2x3", "75.00%", "Layers", "Warnings", "Graph"):
        assert told in reader.text
    assert "Empty" not in reader.text


def test_the_bar_is_as_long_as_what_is_left() -> None:
    assert 'style="width:25.00%"' in page(FINDINGS, "")


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = page(FINDINGS, "").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|src=|href=|@import|url\(", text)

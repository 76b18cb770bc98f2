import re
import xml.dom.minidom
from dataclasses import replace
from html.parser import HTMLParser

from experiments.reporting.figures import pictures, svg
from experiments.reporting.page import page
from experiments.reporting.rendering import Row
from experiments.reporting.sentences import verdicts
from experiments.reporting.tables import heading, schedules, sheets, table
from experiments.store import Evaluation, LayerCount, Result
from experiments.trial import Trial


def result(
    method: str,
    tau: int,
    seed: int,
    after: float,
    schedule: str = "one-shot",
    train: float = 0.01,
    multiply_adds: float = 0.25,
) -> Result:
    trial = Trial("fcn", "relu", "mnist", method, tau, seed, 100, 50, 60, 1e-3, schedule=schedule)
    moments = (
        Evaluation(-1, 0.0, 0.1, 0.02, 0.2),
        Evaluation(0, 0.4, 1.0, 0.5, 1.1),
        Evaluation(25, 0.2, 0.1, (0.5 + after) / 2, 0.3),
        Evaluation(50, train, 0.1, after, 0.3),
    )
    layers = tuple(LayerCount(f"Dense_{i}", 100, 100 >> tau, 10, tau) for i in range(2))
    return Result(trial, 0.5**tau, multiply_adds, layers, moments, 1.0)


RESULTS = [
    result(method, tau, seed, error + 0.001 * seed)
    for method, error in (("MP", 0.10), ("LAP", 0.05), ("LAP-forward", 0.2), ("LAP shuffled", 0.3))
    for tau in (4, 5)
    for seed in (0, 1)
] + [result("unpruned", 0, seed, 0.015) for seed in (0, 1)]


def test_the_gap_is_test_error_less_training_error() -> None:
    (gap,) = [sheet for sheet in sheets(RESULTS) if "less that of training" in sheet.title]
    (row,) = [row for row in gap.rows if row.name == "LAP"]
    assert row.cells == ("4.05±0.07", "4.05±0.07")


def test_the_control_and_baselines_have_their_places() -> None:
    assert "and 1.50±0.00% (0.433±0.000 bits) after as many steps of retraining" in heading(RESULTS)
    names = [row.name for row in sheets(RESULTS)[0].rows if not row.quoted]
    assert names == ["MP (baseline)", "LAP", "LAP shuffled", "LAP-forward"]
    assert "100.00%" not in sheets(RESULTS)[0].heads
    (costs,) = [sheet for sheet in sheets(RESULTS) if "Multiply-adds" in sheet.title]
    assert costs.rows[0].cells == ("25.00±0.00",) * 2
    uncounted = [replace(each, multiply_adds=None) for each in RESULTS]
    assert not [sheet for sheet in sheets(uncounted) if "Multiply-adds" in sheet.title]


def test_schedules_stand_side_by_side() -> None:
    assert schedules(RESULTS) == []
    both = [*RESULTS, *(result("LAP", tau, 0, 0.01, "gradual") for tau in (4, 5))]
    (sheet,) = schedules(both)
    assert sheet.rows[-1] == Row("gradual, LAP", ("1.00", "1.00"))
    assert "gradual" in page(both, [], "title")


def test_only_a_control() -> None:
    control = [each for each in RESULTS if each.trial.method == "unpruned"]
    assert "1.50" in table(control)
    assert sheets(control) == []
    assert "<table" not in page(control, [], "title")
    assert pictures(control) == {}
    assert verdicts(control) == []


def test_pictures_are_whole_and_the_same_each_time() -> None:
    drawn = pictures(RESULTS)
    assert set(drawn) == {"accuracy", "gap", "curves", "layers"}
    for kind, figure in drawn.items():
        content = svg(figure)
        xml.dom.minidom.parseString(content)
        assert (b"every method" if kind == "layers" else b"LAP") in content  # text as text
        assert content == svg(pictures(RESULTS)[kind])
    shorter = [replace(each, layers=(), evaluations=(*each.evaluations[:2], each.evaluations[-1]))
               for each in RESULTS]  # fmt: skip
    assert set(pictures(shorter)) == {"accuracy", "gap"}


Attributes = list[tuple[str, str | None]]


class Reader(HTMLParser):
    VOID = frozenset({"meta", "br", "link", "img", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: Attributes) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href"):
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: Attributes) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()


def test_the_page_is_whole_and_needs_no_network() -> None:
    both = [*RESULTS, *(result("LAP", tau, 0, 0.01, "gradual") for tau in (4, 5))]
    made = [{"jax": "0.10", "commit": ""}, {"jax": "0.11", "commit": ""}]
    text = page(both, made, "a <title>")
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in reader.links)
    assert len(set(reader.ids)) == len(reader.ids)
    assert {link[1:] for link in reader.links if link.startswith("#")} <= set(reader.ids)
    assert not re.findall(r"url\((?!#)", text)
    assert "a &lt;title&gt;" in text
    assert "<dt>jax</dt><dd>0.10, 0.11</dd>" in text
    assert "<dt>commit</dt>" not in text
    assert "--methods MP LAP &#x27;LAP shuffled&#x27; LAP-forward --taus 4 5" in text
    assert "“LAP beats MP” holds, beyond the spread, at 6.25% (5.05±0.07% against" in text
    assert re.findall(r"@import|<script|<link|<img", text) == []
    assert text.count("<figure>") == 8


def test_pictures_take_the_colours_of_the_page() -> None:
    text = page(RESULTS, [], "title")
    assert "prefers-color-scheme: dark" in text
    drawn = text[text.index("<figure>") :]
    assert "#000000" not in drawn
    assert "#ffffff" not in drawn
    assert drawn.count('<svg fill="currentColor"') == 4


def test_a_page_of_results_that_were_counted_less() -> None:
    few = [
        replace(each, layers=(), multiply_adds=None,
                evaluations=tuple(moment._replace(train_loss=None, test_loss=None)
                                  for moment in each.evaluations))
        for each in RESULTS
    ]  # fmt: skip
    text = page(few, [], "title")
    assert text.count("<figure>") == 3
    assert "density of layers" not in text
    assert "multiply-adds" not in text

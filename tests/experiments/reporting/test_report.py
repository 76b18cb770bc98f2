import csv
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from experiments.reporting import report
from experiments.store import Evaluation, LayerCount, Result, Store
from experiments.trial import Trial


def result(method: str, tau: int, seed: int, error: float, schedule: str = "one-shot") -> Result:
    trial = Trial("fcn", "relu", "digits", method, tau, seed, 100, 50, 60, 1e-3, schedule=schedule)
    steps = (-1, 0.02), (0, 0.5), (20, 0.4), (40, 0.2), (50, error)
    moments = tuple(Evaluation(step, 0.01, 0.1, test, 0.2) for step, test in steps)
    # No neuron is dead, as in most runs at a low sparsity.
    return Result(trial, 0.5**tau, 0.5**tau, (LayerCount("L", 64, 64 >> tau, 8, 0),), moments, 1.0)


ONE_SHOT = [
    result(method, tau, seed, error + 0.01 * seed)
    for method, error in (("MP", 0.3), ("LAP", 0.1), ("RP", 0.8))
    for tau in (1, 2)
    for seed in (0, 1)
]
GRADUAL = [replace(each, trial=replace(each.trial, schedule="gradual")) for each in ONE_SHOT]


@pytest.mark.parametrize(
    ("results", "ends"), [(ONE_SHOT, [""]), (ONE_SHOT + GRADUAL, ["-1", "-2"])]
)
def test_every_file_of_a_folder_appears_whole_and_alone(
    results: list[Result], ends: list[str], tmp_path: Path
) -> None:
    Store(tmp_path).add(results)
    said = report.write(results, tmp_path)
    pictures = {
        f"{kind}{end}.{ending}"
        for kind in ("accuracy", "gap", "curves", "layers")
        for end in ends
        for ending in ("png", "svg")
    }
    texts = {"results.csv", "table.md", "tables.tex", "index.html"}
    assert {path.name for path in tmp_path.iterdir()} == {*pictures, *texts, "results.sqlite"}
    assert (tmp_path / "table.md").read_text() in said
    assert f"page: {tmp_path / 'index.html'}" in said
    assert said.count("picture: ") == len(ends)
    assert "LAP errs less than MP at 2 of 2 levels" in said.splitlines()[-1]
    _latex_captions_say_what_they_are_of((tmp_path / "tables.tex").read_text())
    if results is ONE_SHOT:
        again = {path: path.read_bytes() for path in tmp_path.iterdir() if path.suffix != ".sqlite"}
        report.write(results, tmp_path)
        assert {path: path.read_bytes() for path in again} == again


def _latex_captions_say_what_they_are_of(text: str) -> None:
    assert text.count("{") == text.count("}")
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}")
    captions = [line for line in text.splitlines() if r"\caption" in line]
    assert len(set(captions)) == len(captions) == text.count(r"\begin{table}")
    assert all("fcn (relu) on digits" in caption for caption in captions)
    assert r"LAP & \shortstack[r]{10.50$\pm$0.71\\(-65.57\%)}" in text
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert {row.count("&") for row in rows} == {2}


def test_the_text_has_tables_and_what_they_say() -> None:
    text = report.text(ONE_SHOT)
    assert "| LAP | 10.50±0.71 (-65.57%)" in text
    assert "“LAP beats MP” holds, beyond the spread, at 50.00% (10.50±0.71% against" in text
    assert "\n- At 25.00% of the weights MP errs 30.50±0.71%; beyond the spread: LAP" in text


def test_csv_holds_settings_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    report.write_csv(ONE_SHOT[:1], path)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["-1", "0", "20", "40", "50"]
    assert all(row["method"] == "MP" for row in rows)
    assert float(rows[-1]["test_error"]) == ONE_SHOT[0].retrained.test_error
    assert set(rows[0]) >= set(asdict(ONE_SHOT[0].trial)) | {"kept", "train_loss", "seconds"}


def test_text_for_a_terminal_fits_it_and_says_the_same() -> None:
    shown, markdown = report.text(ONE_SHOT, 60), report.text(ONE_SHOT)
    assert max(map(len, shown.splitlines())) <= 60
    assert "|" not in shown
    assert "| MP (baseline) |" in markdown

    def words(text: str) -> set[str]:
        return set(text.replace("|", " ").replace("---:", "").replace("---", "").split())

    assert words(shown) == words(markdown)

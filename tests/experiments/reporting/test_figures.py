from dataclasses import replace
from pathlib import Path
from typing import Any

import chex
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.methods import METHODS
from experiments.reporting.figures import OTHERS, STYLES, pictures, plot
from experiments.store import Evaluation, LayerCount, Result
from experiments.trial import Trial


def result(method: str, tau: int, seed: int, after: float, dataset: str = "digits") -> Result:
    trial = Trial("fcn", "relu", dataset, method, tau, seed, 100, 50, 60, 1e-3)
    moments = (
        Evaluation(-1, 0.0, 0.1, 0.02, 0.2),
        Evaluation(0, 0.4, 1.0, 0.5, 1.1),
        Evaluation(25, 0.2, 0.1, (0.5 + after) / 2, 0.3),
        Evaluation(50, 0.1, 0.1, after, 0.3),
    )
    return Result(trial, 0.5**tau, 0.25, (LayerCount("Dense_0", 100, 6, 10, 1),), moments, 1.0)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def watched(self: Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", watched)
    return figures


def _bars(figure: Figure) -> Any:
    """Lines with their error bars."""
    return figure.axes[0].containers


def lines(axes: Any) -> dict[str, np.ndarray]:
    return {container.get_label(): container.lines[0].get_xydata() for container in axes.containers}


def test_the_lines_are_mean_accuracies_over_the_share_kept(
    drawn: list[Figure], tmp_path: Path
) -> None:
    errors = {"MP": {4: [0.1, 0.2], 6: [0.5, 0.7]}, "LAP": {4: [0.1, 0.1], 6: [0.2, 0.3]}}
    results = [
        result(method, tau, seed, error)
        for method, taus in errors.items()
        for tau, values in taus.items()
        for seed, error in enumerate(values)
    ]
    path = plot(results, tmp_path / "figure.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]
    after, before = drawn[0].axes
    wanted = [np.array(each) for each in (
        [[6.25, 85], [1.5625, 40]], [[6.25, 90], [1.5625, 75]], [[6.25, 50], [1.5625, 50]]
    )]  # fmt: skip
    chex.assert_trees_all_close(
        [lines(after)["MP"], lines(after)["LAP"], lines(before)["LAP"]], wanted
    )
    left, right = after.get_xlim()
    assert left > right  # the share of weights falls to the right
    for axes in (after, before):
        (unpruned,) = [line for line in axes.get_lines() if line.get_label() == "unpruned"]
        assert set(np.asarray(unpruned.get_ydata())) == {98.0}
    assert [label.get_text() for label in after.get_xticklabels()] == ["6.25%", "1.56%"]


def test_bars_are_one_sample_standard_deviation_and_need_two_seeds(
    drawn: list[Figure], tmp_path: Path
) -> None:
    plot([result("LAP", 4, seed, error) for seed, error in enumerate((0.1, 0.2, 0.6))],
         tmp_path / "three.png")  # fmt: skip
    plot([result("LAP", 4, 0, 0.1)], tmp_path / "one.png")
    (three,), (one,) = (_bars(figure) for figure in drawn)
    (bar,) = three.lines[2][0].get_segments()
    chex.assert_trees_all_close(bar[:, 1], np.array([70 - 26.45751, 70 + 26.45751]))
    assert three.has_yerr
    assert not one.has_yerr


def test_the_papers_points_are_drawn_on_its_own_data_only(
    drawn: list[Figure], tmp_path: Path
) -> None:
    for dataset in ("mnist", "digits"):
        plot([result("LAP", tau, 0, 0.1, dataset) for tau in (4, 5)], tmp_path / f"{dataset}.png")
    mnist, digits = (figure.axes[0] for figure in drawn)
    hollow, entry = [line for line in mnist.get_lines() if line.get_markerfacecolor() == "none"]
    wanted = np.array([[6.36, 98.33], [3.21, 98.11]])
    chex.assert_trees_all_close(np.asarray(hollow.get_xydata()), wanted)
    assert entry.get_label() == "paper, Table 1"
    assert not [line for line in digits.get_lines() if line.get_markerfacecolor() == "none"]


def test_the_paper_is_in_the_legend_only_where_it_is_drawn(
    drawn: list[Figure], tmp_path: Path
) -> None:
    plot([result("LAP effective", tau, 0, 0.1, "mnist") for tau in (4, 5)], tmp_path / "other.png")
    labels = [str(line.get_label()) for line in drawn[0].axes[0].get_lines()]
    assert not [label for label in labels if label.startswith("paper")]


@pytest.mark.parametrize("taus", [(4,), (4, 5)])
def test_one_seed_and_one_level_can_be_drawn(tmp_path: Path, taus: tuple[int, ...]) -> None:
    assert plot([result("MP", tau, 0, 0.3) for tau in taus], tmp_path / "one.png").exists()


def test_errors_are_drawn_by_effective_weights_where_they_were_counted() -> None:
    def counted(tau: int, effective: int) -> list[Result]:
        layers = (LayerCount("Dense_0", 100, 8, 10, 1, effective),)
        return [replace(result("LAP", tau, seed, error), layers=layers)
                for seed, error in enumerate((0.1, 0.2))]  # fmt: skip

    uncounted = [result("MP", 4, 0, 0.5)]
    assert "effective" not in pictures(uncounted)
    figure = pictures([*counted(4, 4), *counted(6, 2), *counted(8, 0), *uncounted])["effective"]
    by_kept, by_effective = figure.axes
    assert set(lines(by_kept)) == {"LAP"}
    # Without a path nothing can be drawn on a logarithmic axis.
    wanted = np.array([[6.25 / 2, 15], [1.5625 / 4, 15]])
    chex.assert_trees_all_close(lines(by_effective)["LAP"], wanted)
    left, right = by_effective.get_xlim()
    assert left > right


def test_every_method_has_a_style_of_its_own() -> None:
    assert set(STYLES) == set(METHODS)
    assert OTHERS not in STYLES.values()
    assert len(set(STYLES.values())) == len(STYLES)


@pytest.mark.parametrize("ways", [2, 7, len(METHODS) * 2])
def test_the_legend_lies_within_the_picture(ways: int, drawn: list[Figure], tmp_path: Path) -> None:
    plain = [result(method, 4, 0, 0.1) for method in METHODS]
    effective = [
        replace(one, trial=replace(one.trial, effective=True, scope="global")) for one in plain
    ]
    plot([*plain, *effective][-ways:], tmp_path / "figure.png")
    (figure,) = drawn
    (legend,) = figure.legends
    box, whole = legend.get_window_extent(), figure.bbox
    assert len(legend.get_texts()) == ways + 1  # and the unpruned network
    assert box.x0 >= 0
    assert box.x1 <= whole.width
    assert box.y0 >= 0
    assert box.y1 <= figure.axes[0].get_window_extent().y0

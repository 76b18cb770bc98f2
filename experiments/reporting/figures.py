"""Results as pictures: the paper's Figures 2 to 4, learning curves, what is left of each layer."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    FormatStrFormatter,
    LogFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    ScalarFormatter,
)

from experiments.files import write_atomically
from experiments.reporting.layers_figure import layers_figure
from experiments.reporting.measure import BITS, Measure, measure_of
from experiments.reporting.tables import pruned, published_for, ways_of, when
from experiments.store import Evaluation, Result
from experiments.trial import SHUFFLED
from lap_jax import METHODS

STYLES = {
    "MP": ("tab:red", "o"),
    "RP": ("tab:gray", "x"),
    "LFP": ("tab:orange", "v"),
    "LBP": ("tab:brown", "<"),
    "LAP": ("tab:green", "s"),
    "LAP-forward": ("tab:cyan", ">"),
    "LAP-backward": ("tab:blue", "^"),
    "LAP-forward-seq": ("tab:pink", "P"),
    "LAP-backward-seq": ("tab:purple", "D"),
    "Wanda": ("tab:olive", "h"),
    "RIA": ("goldenrod", "p"),
    "DaSS": ("navy", "d"),
    "LAP-once": ("limegreen", "1"),
}
OTHERS = ("black", "*")
"""Colour and marker of the methods, and of scores of your own."""

LINES = ("--", "-.", (0, (1, 1)), (0, (5, 1)), (0, (3, 1, 1, 1)))
MARKERS = ("*", "p", "h", "d", "8", "X", "1")
"""Of the variants of a method."""

COLUMNS = 4
"""Panels beside one another at most: more would be too small to read on a page."""


class Style(NamedTuple):
    """How a way of pruning is drawn."""

    colour: str
    marker: str
    line: Any


def pictures(results: Sequence[Result]) -> dict[str, Figure]:
    """Return what there is to draw of a run, by name; nothing where no method was run.

    Lines are means over seeds, bars one sample standard deviation. The share of weights kept falls
    to the right. Hollow markers are the paper's table of the same network and data.

    Returns:
      "accuracy": test accuracy after and before retraining (Figures 2 and 3); "effective": test
      error by kept and by effective weights, where they were counted; "gap": test accuracy and how
      far training accuracy is above it (Figure 4); "curves": test error on the way, where it was
      measured; "layers": density and dead neurons per layer, where they were counted. Of texts,
      cross entropies stand in the place of accuracies and errors.
    """
    if not pruned(results):
        return {}
    found = {"accuracy": _accuracy_figure(results)}
    if any(result.effective is not None for result in pruned(results)):
        found["effective"] = _effective_figure(results)
    found["gap"] = _gap_figure(results)
    if any(len(result.evaluations) > 3 for result in results):
        found["curves"] = _curves_figure(results)
    if all(result.layers for result in pruned(results)):
        found["layers"] = layers_figure(pruned(results))
    return found


def plot(results: Sequence[Result], path: Path) -> Path:
    """Write the "accuracy" picture of a run as PNG; it appears whole or not at all."""
    write_atomically(path, png(pictures(results)["accuracy"]))
    return path


def png(figure: Figure) -> bytes:
    """Return a picture as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()


def svg(figure: Figure) -> bytes:
    """Return a picture as SVG: the same bytes for the same results, its text as text."""
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "lap_jax", "svg.fonttype": "none"}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def _accuracy_figure(results: Sequence[Result]) -> Figure:
    moments: dict[str, Callable[[Result], Evaluation]] = {
        when(results[0].trial).capitalize(): lambda r: r.retrained
    }
    if results[0].trial.retrain_steps:
        moments["Before retraining"] = lambda r: r.pruned
    figure, panels = _panels(results, len(moments))
    measure = measure_of(results)
    drawn = _height(measure)
    for axes, (title, moment) in zip(panels, moments.items(), strict=True):
        _panel(axes, title, results, lambda r, moment=moment: drawn(moment(r)))  # type: ignore[misc]
        _unpruned_line(axes, results, drawn)
        _named(axes, measure)
    _published(panels[0], results)
    legend_below(figure, panels[0])
    return figure


def _effective_figure(results: Sequence[Result]) -> Figure:
    """Test error against all kept weights, and against those of them that are effective."""
    figure, (by_kept, by_effective) = _panels(results, 2)
    counted = [result for result in pruned(results) if result.effective is not None]
    measure = measure_of(results)
    _panel(by_kept, "By weights kept", counted, lambda r: _told(measure, r.retrained))
    for way, style in styles_of(counted).items():
        levels: dict[float, list[Result]] = {}
        for result in counted:
            if result.trial.way == way:
                levels.setdefault(result.trial.level, []).append(result)
        groups = {
            statistics.fmean(100 * r.kept * (r.effective or 0) for r in those): [
                _told(measure, r.retrained) for r in those
            ]
            for those in levels.values()
        }
        # What has no path left is off a logarithmic axis.
        _line(by_effective, way, {x: errors for x, errors in groups.items() if x > 0}, style)
    by_effective.set_title("By effective weights, on a path from input to output")
    by_effective.set_xlabel("effective weights (% of all)")
    by_effective.set_xscale("log")
    by_effective.invert_xaxis()
    by_effective.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    by_effective.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    by_effective.xaxis.set_minor_formatter(NullFormatter())
    for axes in (by_kept, by_effective):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
        axes.tick_params(labelsize=8, which="both")
        axes.grid(alpha=0.3, which="both")
    by_kept.set_ylabel(_label(measure))
    legend_below(figure, by_kept)
    return figure


def _gap_figure(results: Sequence[Result]) -> Figure:
    figure, (left, right) = _panels(results, 2)
    measure = measure_of(results)
    drawn = _height(measure)
    _panel(left, "Test set", results, lambda r: drawn(r.retrained))
    _unpruned_line(left, results, drawn)
    _named(left, measure)
    _panel(
        right, "Generalisation gap", results,
        lambda r: measure.unit * (measure.gap(r.retrained) or 0.0),
    )  # fmt: skip
    right.ticklabel_format(axis="y", useOffset=False)
    right.set_ylabel(f"{measure.noun} less that on the training set ({measure.step})")
    legend_below(figure, left)
    return figure


def _curves_figure(results: Sequence[Result]) -> Figure:
    """Test error against the step of retraining, a panel per level."""
    own, measure = pruned(results), measure_of(results)
    levels = sorted({result.trial.level for result in own})
    figure, panels = _panels(results, len(levels))
    for axes, level in zip(panels, levels, strict=True):
        those = [result for result in own if result.trial.level == level]
        for way, style in styles_of(those).items():
            groups: dict[int, list[float]] = {}
            for result in those:
                if result.trial.way == way:
                    for moment in result.evaluations[1:]:
                        groups.setdefault(moment.step, []).append(_told(measure, moment))
            _line(axes, way, groups, style)
        axes.set_title(f"{those[0].kept:.2%} of the weights", fontsize=10)
        axes.set_xlabel("step of retraining", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
        axes.tick_params(labelsize=8, which="both")
        axes.grid(alpha=0.3, which="both")
    for axes in panels[::COLUMNS]:
        axes.set_ylabel(_label(measure))
    legend_below(figure, panels[0])
    return figure


def _panels(results: Sequence[Result], count: int) -> tuple[Figure, list[Any]]:
    trial = results[0].trial
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    figure = Figure(figsize=(11, 4.8 if rows == 1 else 2.6 * rows + 1.2), layout="constrained")
    seeds = len({result.trial.seed for result in results})
    schedule = "" if trial.schedule == "one-shot" else f", {trial.schedule}"
    figure.suptitle(
        f"{trial.model} ({trial.activation}) on {trial.dataset}{schedule}: "
        f"{trial.train_steps:,} training and {trial.retrain_steps:,} retraining steps, "
        f"{seeds} {'seeds' if seeds > 1 else 'seed'}"
    )
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _panel(
    axes: Any, title: str, results: Sequence[Result], number: Callable[[Result], float]
) -> None:
    own = pruned(results)
    kept = {result.trial.level: 100 * result.kept for result in own}
    for way, style in styles_of(own).items():
        groups: dict[float, list[float]] = {}
        for result in own:
            if result.trial.way == way:
                groups.setdefault(kept[result.trial.level], []).append(number(result))
        _line(axes, way, groups, style)
    axes.set_title(title)
    axes.set_xlabel("weights kept")
    axes.set_xscale("log")
    shares = [kept[level] for level in sorted(kept)]
    axes.set_xticks(
        shares,
        [f"{share:.3g}%" if share >= 1 else f"{share:.2g}%" for share in shares],
        rotation=45 if len(shares) > 8 else 0,
    )
    axes.set_xticks([], minor=True)
    # A level halves the weights or so: a margin of half a level on either side.
    axes.set_xlim(1.4 * max(kept.values()), min(kept.values()) / 1.4)
    axes.grid(alpha=0.3)


def _line(axes: Any, way: str, groups: dict[Any, list[float]], style: Style) -> None:
    places = sorted(groups, reverse=True)
    several = any(len(values) > 1 for values in groups.values())
    spread = [statistics.stdev(groups[x]) if len(groups[x]) > 1 else 0 for x in places]
    compared = way in ("MP", "LAP")
    hollow = way.endswith(SHUFFLED)
    axes.errorbar(
        places,
        [statistics.fmean(groups[x]) for x in places],
        spread if several else None,
        color=style.colour,
        marker=style.marker,
        markersize=5,
        markerfacecolor="white" if hollow else style.colour,
        linewidth=2 if compared else 1,
        linestyle=":" if hollow else style.line,
        capsize=3,
        zorder=3 if compared else 2,
        label=way,
    )


def styles_of(results: Sequence[Result]) -> dict[str, Style]:
    """Return the ways of results in order, with their styles: variants of a method share a colour.

    The method itself is drawn whole and each variant with a line and a marker of its own.
    """
    methods = {result.trial.way: result.trial.method.removesuffix(SHUFFLED) for result in results}
    found, variants = {}, dict.fromkeys(methods.values(), 0)
    for way in ways_of(results):
        colour, marker = STYLES.get(methods[way], OTHERS)
        if way.removesuffix(SHUFFLED) == methods[way]:
            found[way] = Style(colour, marker, "-")
        else:
            number = variants[methods[way]]
            variants[methods[way]] += 1
            line, marker = LINES[number % len(LINES)], MARKERS[number % len(MARKERS)]
            found[way] = Style(colour, marker, line)
    return found


def _unpruned_line(
    axes: Any, results: Sequence[Result], drawn: Callable[[Evaluation], float]
) -> None:
    trained = {result.trial.seed: drawn(result.trained) for result in results}
    axes.axhline(
        statistics.fmean(trained.values()), color="black", linestyle="--", linewidth=1,
        label="unpruned",
    )  # fmt: skip


def _published(axes: Any, results: Sequence[Result]) -> None:
    found = published_for(results[0].trial)
    if found is None:
        return
    name, table = found
    taus = {result.trial.level for result in results}
    columns = [index for index, tau in enumerate(table.taus) if tau in taus]
    ways = {result.trial.way for result in results}
    methods = [method for method in METHODS if method in table.errors and method in ways]
    if not columns or not methods:
        return
    for method in methods:
        colour, marker = STYLES[method]
        axes.plot(
            [table.kept[index] for index in columns],
            [100 - table.errors[method][index][0] for index in columns],
            linestyle="none",
            marker=marker,
            markersize=9,
            markerfacecolor="none",
            markeredgecolor=colour,
            zorder=4,
        )
    # One entry for all: hollow, and of no method's colour.
    hollow = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgecolor": "gray"}
    axes.plot([], [], linestyle="none", label=f"paper, {name}", **hollow)


def legend_below(figure: Figure, axes: Any) -> None:
    """Put names under the panels, in as many columns as the longest leaves room for."""
    handles, labels = axes.get_legend_handles_labels()
    inches = 0.7 + 0.075 * max(map(len, labels))  # the line, and letters of the small size
    columns = max(1, min(len(labels), 6, int(figure.get_figwidth() / inches)))
    # More than a few lines of names would take their room from the panels.
    rows = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + 0.22 * max(0, rows - 5))
    figure.legend(handles, labels, loc="outside lower center", fontsize="small", ncols=columns)


def _told(measure: Measure, moment: Evaluation) -> float:
    """Return what a network is judged by, in its unit; `measure_of` saw that it is there."""
    return measure.unit * (measure.test(moment) or 0.0)


def _height(measure: Measure) -> Callable[[Evaluation], float]:
    """Return how high a network is drawn: its accuracy in percent, of texts its bits."""
    if measure is BITS:
        return lambda moment: _told(measure, moment)
    return lambda moment: 100 - _told(measure, moment)


def _label(measure: Measure) -> str:
    return f"{measure.noun} ({measure.sign.strip()})"


def _named(axes: Any, measure: Measure) -> None:
    """Name the axis of what `_height` draws; accuracies go from none to all."""
    if measure is BITS:
        axes.set_ylabel(_label(measure))
    else:
        axes.set_ylabel("test accuracy (%)")
        axes.set_ylim(0, 102)

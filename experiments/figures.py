"""Results as a picture in the layout of the paper's Figures 2 and 3."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.paper import table_for
from experiments.results import Result, write_atomically
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
}


def plot(results: Sequence[Result], path: Path) -> Path:
    """Draw test accuracy against the share of weights kept: after and before retraining.

    Lines are means over seeds, bars one sample standard deviation. The share of weights falls to
    the right. Hollow markers are the paper's table of the same network and data, where there is
    one.

    Args:
      results: of one network and data set; at least one.
      path: PNG file to write; it appears whole or not at all.

    Returns:
      ``path``.
    """
    trial = results[0].trial
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    after, before = figure.subplots(1, 2, sharey=True)
    _panel(after, "After retraining", results, lambda result: result.after)
    _panel(before, "Before retraining", results, lambda result: result.before)
    _published(after, results)
    after.set_ylabel("test accuracy (%)")
    seeds = len({result.trial.seed for result in results})
    figure.suptitle(
        f"{trial.model} ({trial.activation}) on {trial.dataset}: "
        f"{trial.train_steps:,} training and {trial.retrain_steps:,} retraining steps, "
        f"{seeds} {'seeds' if seeds > 1 else 'seed'}"
    )
    handles, labels = after.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6))
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_atomically(path, content.getvalue())
    return path


def _panel(
    axes: Any, title: str, results: Sequence[Result], error: Callable[[Result], float]
) -> None:
    kept = {result.trial.tau: 100 * result.kept for result in results}
    unpruned = statistics.fmean({r.trial.seed: _accuracy(r.unpruned) for r in results}.values())
    for method, (colour, marker) in STYLES.items():
        groups: dict[int, list[float]] = {}
        for result in results:
            if result.trial.method == method:
                groups.setdefault(result.trial.tau, []).append(_accuracy(error(result)))
        if not groups:
            continue
        taus = sorted(groups)
        several = any(len(accuracies) > 1 for accuracies in groups.values())
        spread = [statistics.stdev(groups[tau]) if len(groups[tau]) > 1 else 0 for tau in taus]
        compared = method in ("MP", "LAP")
        axes.errorbar(
            [kept[tau] for tau in taus],
            [statistics.fmean(groups[tau]) for tau in taus],
            spread if several else None,
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=2 if compared else 1,
            capsize=3,
            zorder=3 if compared else 2,
            label=method,
        )
    axes.axhline(unpruned, color="black", linestyle="--", linewidth=1, label="unpruned")
    axes.set_title(title)
    axes.set_xlabel("weights kept")
    axes.set_xscale("log")
    taus = sorted(kept)
    axes.set_xticks(
        [kept[tau] for tau in taus],
        [f"{kept[tau]:.3g}%" if kept[tau] >= 1 else f"{kept[tau]:.2g}%" for tau in taus],
        rotation=45 if len(taus) > 8 else 0,
    )
    axes.set_xticks([], minor=True)
    # A level halves the weights or so: a margin of half a level on either side.
    axes.set_xlim(1.4 * max(kept.values()), min(kept.values()) / 1.4)
    axes.set_ylim(0, 102)
    axes.grid(alpha=0.3)


def _published(axes: Any, results: Sequence[Result]) -> None:
    trial = results[0].trial
    found = table_for(trial.model, trial.activation, trial.dataset)
    if found is None:
        return
    name, table = found
    taus = {result.trial.tau for result in results}
    columns = [index for index, tau in enumerate(table.taus) if tau in taus]
    for method in METHODS:
        if method in table.errors and any(r.trial.method == method for r in results):
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


def _accuracy(error: float) -> float:
    return 100 * (1 - error)

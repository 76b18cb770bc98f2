"""Results as Markdown in the layout of the paper's tables, and what they say in one sentence."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments.paper import Table, table_for
from experiments.results import Result, by_run
from lap_jax import METHODS


class Cell(NamedTuple):
    """Test errors over seeds, in percent: mean, sample standard deviation (None: one seed)."""

    mean: float
    std: float | None
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.std is None else f"±{self.std:.2f}")


def table(results: Sequence[Result]) -> str:
    """Return Markdown: test error after retraining as in Table 1, then before retraining.

    A column per level, headed by the share of weights kept; a row per method, with the change
    relative to MP in brackets and, where the paper has the same network on the same data, the
    paper's figures below.

    A cell of fewer seeds than the others says how many.

    Args:
      results: at least one, of one run: the settings are the same except for method, level, seed.

    Raises:
      ValueError: for results of several runs (see `by_run`), whose mean would mean nothing.
    """
    trial = results[0].trial
    if len(by_run(results)) > 1:
        raise ValueError("results of several runs in one table")
    seeds = len({result.trial.seed for result in results})
    unpruned = {result.trial.seed: result.unpruned for result in results}
    published = table_for(trial.model, trial.activation, trial.dataset)
    over = _count(seeds, "seed") + (" (mean ± standard deviation)" if seeds > 1 else "")
    note = ""
    if published:
        note = f" Rows *paper*: {published[0]}, 5 trials, unpruned {published[1].unpruned}%."
    return (
        f"Test error (%) of {trial.model} ({trial.activation}) on {trial.dataset} after "
        f"retraining; {over}; in brackets the change relative to MP. "
        f"Unpruned: {_cell(list(unpruned.values()))}%. "
        f"{trial.train_steps:,} training and {trial.retrain_steps:,} retraining steps, "
        f"batches of {trial.batch_size}, learning rate {trial.learning_rate:g}.{note}\n\n"
        f"{_layout(results, lambda result: result.after, published[1] if published else None)}\n\n"
        f"Before retraining:\n\n{_layout(results, lambda result: result.before, None)}"
    )


def sentence(results: Sequence[Result]) -> str:
    """Return one sentence: where the other methods err less than MP after retraining, and how much.

    Where MP or a rival is missing, it says how one method's error grows with the sparsity.
    """
    cells, kept, methods = _cells_of(results, lambda result: result.after)
    taus = sorted(kept)
    rivals = [method for method in methods if method not in ("MP", "RP")]
    if "MP" not in methods or not rivals:
        method = methods[0]
        present = [tau for tau in taus if (method, tau) in cells]
        return (
            f"With {method} the test error after retraining goes from "
            f"{cells[method, present[0]]}% at {kept[present[0]]:.2%} of the weights to "
            f"{cells[method, present[-1]]}% at {kept[present[-1]]:.2%}."
        )
    parts = [_compared(cells, kept, method) for method in rivals]
    return f"After retraining, {'; '.join(parts)}."


def _compared(cells: dict[tuple[str, int], Cell], kept: dict[int, float], method: str) -> str:
    """Compare one method with MP over the levels that both have."""
    both = [tau for tau in sorted(kept) if (method, tau) in cells and ("MP", tau) in cells]
    if not both:
        return f"{method} and MP share no level"
    gaps = {tau: cells["MP", tau].mean - cells[method, tau].mean for tau in both}
    better = [tau for tau in both if gaps[tau] > 0]
    clear = [
        tau
        for tau in better
        if gaps[tau] > (cells["MP", tau].std or 0) + (cells[method, tau].std or 0)
    ]
    widest = max(both, key=lambda tau: abs(gaps[tau]))
    seeded = cells["MP", widest].std is not None
    beyond = f" ({len(clear)} by more than both standard deviations together)" if seeded else ""
    return (
        f"{method} errs less than MP at {len(better)} of {len(both)} levels{beyond}, and they "
        f"differ most at {kept[widest]:.2%} of the weights: {cells[method, widest]}% against "
        f"{cells['MP', widest]}%"
    )


def _layout(
    results: Sequence[Result], error: Callable[[Result], float], published: Table | None
) -> str:
    cells, kept, methods = _cells_of(results, error)
    taus = sorted(kept)
    most = max(cell.seeds for cell in cells.values())
    lines = [
        "| | " + " | ".join(f"{kept[tau]:.2%}" for tau in taus) + " |",
        "|---|" + "---:|" * len(taus),
    ]
    for method in methods:
        row = [_with_gain(cells, method, tau, most) for tau in taus]
        lines.append(f"| {method}{' (baseline)' if method == 'MP' else ''} | {' | '.join(row)} |")
        if published and method in published.errors:
            row = [_published(published, method, tau) for tau in taus]
            lines.append(f"| *paper* | {' | '.join(row)} |")
    return "\n".join(lines)


def _cells_of(
    results: Sequence[Result], error: Callable[[Result], float]
) -> tuple[dict[tuple[str, int], Cell], dict[int, float], list[str]]:
    """Return cells by (method, tau), the share kept at each level, and methods in paper order."""
    groups: dict[tuple[str, int], list[float]] = {}
    kept: dict[int, float] = {}
    for result in results:
        groups.setdefault((result.trial.method, result.trial.tau), []).append(error(result))
        kept[result.trial.tau] = result.kept
    found = {method for method, _ in groups}
    methods = [method for method in METHODS if method in found]
    return {key: _cell(errors) for key, errors in groups.items()}, kept, methods


def _cell(errors: Sequence[float]) -> Cell:
    percent = [100 * error for error in errors]
    std = statistics.stdev(percent) if len(percent) > 1 else None
    return Cell(statistics.fmean(percent), std, len(percent))


def _with_gain(cells: dict[tuple[str, int], Cell], method: str, tau: int, seeds: int) -> str:
    cell, baseline = cells.get((method, tau)), cells.get(("MP", tau))
    if cell is None:
        return "-"
    text = str(cell)
    if method not in ("MP", "RP") and baseline is not None and baseline.mean > 0:
        text += f" ({cell.mean / baseline.mean - 1:+.2%})"
    return text if cell.seeds == seeds else f"{text} [{_count(cell.seeds, 'seed')}]"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _published(table: Table, method: str, tau: int) -> str:
    if tau not in table.taus:
        return "-"
    mean, std = table.errors[method][table.taus.index(tau)]
    return f"*{mean:.2f}±{std:.2f}*"

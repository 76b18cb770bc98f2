"""Results in the layout of the paper's tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from experiments.paper import Table, table_for
from experiments.reporting.rendering import Row, Sheet, markdown
from experiments.store import SHUFFLED, UNPRUNED, Result, Trial, by_run
from lap_jax import METHODS

Number = Callable[[Result], float | None]


class Cell(NamedTuple):
    """Percentages over seeds: mean, sample standard deviation (None: one seed)."""

    mean: float
    std: float | None
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.std is None else f"±{self.std:.2f}")


Cells = dict[tuple[str, int], Cell]


def table(results: Sequence[Result]) -> str:
    """Return Markdown: the settings, then every sheet of `sheets`.

    Raises:
      ValueError: for results of several runs (see `by_run`), whose mean would mean nothing.
    """
    first, *others = sheets(results)
    parts = [f"{heading(results)}\n\n{markdown(first)}"]
    parts += [f"{sheet.title}:\n\n{markdown(sheet)}" for sheet in others]
    return "\n\n".join(parts)


def heading(results: Sequence[Result]) -> str:
    """Return what was run, in a few sentences, with the errors of the unpruned networks."""
    trial = results[0].trial
    seeds = len({result.trial.seed for result in results})
    trained = {result.trial.seed: result.trained.test_error for result in results}
    control = [r.retrained.test_error for r in results if r.trial.method == UNPRUNED]
    published = table_for(trial.model, trial.activation, trial.dataset)
    over = count_of(seeds, "seed") + (" (mean ± standard deviation)" if seeds > 1 else "")
    parts = [
        f"Test error (%) of {network_name(trial)} after retraining; {over}; in brackets the change "
        "relative to MP.",
        f"Unpruned: {_cell(list(trained.values()))}%"
        + (f", and {_cell(control)}% after as many steps of retraining." if control else "."),
        f"{trial.train_steps:,} training and {trial.retrain_steps:,} retraining steps, "
        f"batches of {trial.batch_size}, learning rate {trial.learning_rate:g}{_others(trial)}.",
    ]
    if published and trial.schedule == "one-shot":
        parts.append(f"Rows “paper”: {published[0]}, 5 trials, unpruned {published[1].unpruned}%.")
    return " ".join(parts)


def network_name(trial: Trial) -> str:
    """Return what is trained on what."""
    return f"{trial.model} ({trial.activation}) on {trial.dataset}"


def sheets(results: Sequence[Result]) -> list[Sheet]:
    """Return the tables of a run: a column per level, headed by the share of weights kept.

    First the test error after retraining, a row per method, with the change relative to MP in
    brackets and, where the paper has the same network on the same data, the paper's figures below.
    Under its heads stand the least and the greatest density of a layer and the share of
    multiply-adds, where they were counted: means over methods and seeds. Then the same before
    retraining; the training error, and the gap between the two (Figure 4); and the share of
    multiply-adds that the kept weights take. A cell of fewer seeds than the others says how many.
    Only the last evaluation counts: nothing is chosen by test data.

    Args:
      results: at least one, of one run: the settings are the same except for method, level, seed.

    Raises:
      ValueError: for results of several runs.
    """
    if len(by_run(results)) > 1:
        raise ValueError("results of several runs in one table")
    trial, results = results[0].trial, pruned(results)
    if not results:
        return [Sheet("No method", (), ())]
    published = table_for(trial.model, trial.activation, trial.dataset)
    paper = published[1] if published and trial.schedule == "one-shot" else None
    found = [
        _sheet("Test error (%) after retraining", results, after, paper=paper)._replace(
            levels=_levels(results)
        ),
        _sheet("Before retraining", results, lambda result: result.pruned.test_error),
        _sheet("Training error after retraining", results, lambda r: r.retrained.train_error),
        _sheet("Test error less training error after retraining", results, _gap, gain=False),
        _sheet("Multiply-adds of the kept weights, % of all", results,
               lambda result: result.multiply_adds, gain=False),
    ]  # fmt: skip
    return [
        sheet for sheet in found if any(cell != "-" for row in sheet.rows for cell in row.cells)
    ]


def schedules(results: Sequence[Result]) -> list[Sheet]:
    """Return the error after retraining by schedule and method: a table per network with several.

    Brackets hold the change relative to MP under the same schedule.
    """
    networks: dict[Trial, list[list[Result]]] = {}
    for run in by_run(pruned(results)):
        same = replace(run[0].trial.run, schedule="", cycles=0)
        networks.setdefault(same, []).append(run)
    return [_by_schedule(trial, runs) for trial, runs in networks.items() if len(runs) > 1]


def schedule_of(trial: Trial) -> str:
    """Return the name of a schedule, with the number of its prunings where there are several."""
    return trial.schedule if trial.cycles == 1 else f"{trial.schedule} in {trial.cycles} cycles"


def _by_schedule(trial: Trial, runs: Sequence[Sequence[Result]]) -> Sheet:
    kept = {result.trial.tau: result.kept for run in runs for result in run}
    taus = sorted(kept)
    rows = []
    for run in runs:
        cells, _, methods = cells_of(run, after)
        rows += [
            Row(f"{schedule_of(run[0].trial)}, {method}",
                tuple(_text(cells, method, tau) for tau in taus))
            for method in methods
        ]  # fmt: skip
    title = f"Test error (%) after retraining by schedule, {network_name(trial)}"
    return Sheet(title, tuple(f"{kept[tau]:.2%}" for tau in taus), tuple(rows))


def cells_of(
    results: Sequence[Result], number: Number
) -> tuple[Cells, dict[int, float], list[str]]:
    """Return cells by (method, tau), the share kept at each level, and methods in paper order."""
    groups: dict[tuple[str, int], list[float]] = {}
    kept: dict[int, float] = {}
    for result in results:
        value = number(result)
        kept[result.trial.tau] = result.kept
        if value is not None:
            groups.setdefault((result.trial.method, result.trial.tau), []).append(value)
    return {key: _cell(values) for key, values in groups.items()}, kept, methods_of(results)


def methods_of(results: Sequence[Result]) -> list[str]:
    """Return the methods that results are of, in the order of the paper, without the control."""
    found = {result.trial.method for result in results}
    return [name for method in METHODS for name in (method, method + SHUFFLED) if name in found]


def pruned(results: Sequence[Result]) -> list[Result]:
    """Return the results without those of the control."""
    return [result for result in results if result.trial.method != UNPRUNED]


def _sheet(
    title: str, results: Sequence[Result], number: Number, paper: Table | None = None,
    gain: bool = True,
) -> Sheet:  # fmt: skip
    cells, kept, methods = cells_of(results, number)
    taus = sorted(kept)
    most = max((cell.seeds for cell in cells.values()), default=0)
    rows = []
    for method in methods:
        texts = tuple(_text(cells, method, tau, most, gain) for tau in taus)
        rows.append(Row(f"{method} (baseline)" if method == "MP" and gain else method, texts))
        if paper and method in paper.errors:
            quoted = tuple(_published(paper, method, tau) for tau in taus)
            rows.append(Row("paper", quoted, quoted=True))
    return Sheet(title, tuple(f"{kept[tau]:.2%}" for tau in taus), tuple(rows))


def _levels(results: Sequence[Result]) -> tuple[Row, ...]:
    """Return what a level leaves, beside the share of weights: means over methods and seeds."""
    groups: dict[int, list[Result]] = {}
    for result in results:
        groups.setdefault(result.trial.tau, []).append(result)
    found = []
    for name, text in (("density of layers", _densities), ("multiply-adds", _multiply_adds)):
        texts = tuple(text(groups[tau]) for tau in sorted(groups))
        if any(each != "-" for each in texts):
            found.append(Row(name, texts))
    return tuple(found)


def _densities(results: Sequence[Result]) -> str:
    shares = [[layer.kept / layer.size for layer in r.layers] for r in results if r.layers]
    if not shares:
        return "-"
    least, most = (100 * statistics.fmean(map(pick, shares)) for pick in (min, max))
    return f"{least:.2g}-{most:.2g}%"


def _multiply_adds(results: Sequence[Result]) -> str:
    shares = [r.multiply_adds for r in results if r.multiply_adds is not None]
    return f"{statistics.fmean(shares):.2%}" if shares else "-"


def after(result: Result) -> float:
    """Return the test error after the last step of retraining."""
    return result.retrained.test_error


def _gap(result: Result) -> float:
    return result.retrained.test_error - result.retrained.train_error


def _cell(values: Sequence[float]) -> Cell:
    percent = [100 * value for value in values]
    std = statistics.stdev(percent) if len(percent) > 1 else None
    return Cell(statistics.fmean(percent), std, len(percent))


def _text(cells: Cells, method: str, tau: int, seeds: int = 0, gain: bool = True) -> str:
    cell, baseline = cells.get((method, tau)), cells.get(("MP", tau))
    if cell is None:
        return "-"
    text = str(cell)
    if gain and method not in ("MP", "RP") and baseline is not None and baseline.mean > 0:
        text += f" ({cell.mean / baseline.mean - 1:+.2%})"
    return f"{text} [{count_of(cell.seeds, 'seed')}]" if cell.seeds < seeds else text


def _others(trial: Trial) -> str:
    """Name the settings that are not at their default."""
    parts = []
    if trial.schedule != "one-shot":
        parts.append(f"{trial.schedule} pruning in {count_of(trial.cycles, 'step')}")
    if trial.dtype != "float32":
        parts.append(f"computed in {trial.dtype}")
    if trial.evaluate_on:
        parts.append(f"errors over the first {trial.evaluate_on:,} examples of each split")
    return "".join(f", {part}" for part in parts)


def count_of(number: int, noun: str) -> str:
    """Return a number of things, in words."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _published(table: Table, method: str, tau: int) -> str:
    if tau not in table.taus:
        return "-"
    mean, std = table.errors[method][table.taus.index(tau)]
    return f"{mean:.2f}±{std:.2f}"

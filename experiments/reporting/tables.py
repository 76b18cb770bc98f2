"""Results in the layout of the paper's tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from experiments.methods import METHODS
from experiments.paper import Table, table_for
from experiments.reporting.measure import BITS, ERROR, Measure, measure_of
from experiments.reporting.rendering import Row, Sheet, markdown
from experiments.store import Evaluation, Result, by_run
from experiments.trial import SHUFFLED, UNPRUNED, Trial

Number = Callable[[Result], float | None]


class Cell(NamedTuple):
    """Numbers over seeds: mean, sample standard deviation (None: one seed), decimals to show."""

    mean: float
    std: float | None
    seeds: int
    decimals: int = 2

    def __str__(self) -> str:
        spread = "" if self.std is None else f"±{self.std:.{self.decimals}f}"
        return f"{self.mean:.{self.decimals}f}{spread}"


Cells = dict[tuple[str, float], Cell]
"""By way to prune and level."""


def table(results: Sequence[Result], render: Callable[[Sheet], str] = markdown) -> str:
    """Return Markdown: the settings, then every sheet of `sheets`.

    Args:
      results: of one run.
      render: makes text of a sheet, in place of Markdown.

    Raises:
      ValueError: for results of several runs (see `by_run`), whose mean would mean nothing.
    """
    found = sheets(results)
    parts = [heading(results), *map(render, found[:1])]
    parts += [f"{sheet.title}:\n\n{render(sheet)}" for sheet in found[1:]]
    return "\n\n".join(parts)


def heading(results: Sequence[Result]) -> str:
    """Return what was run, in a few sentences, with the errors of the unpruned networks."""
    trial, measure = results[0].trial, measure_of(results)
    seeds = len({result.trial.seed for result in results})
    trained = {result.trial.seed: result.trained for result in results}
    control = [result.retrained for result in results if result.trial.method == UNPRUNED]
    published = published_for(trial)
    over = count_of(seeds, "seed") + (" (mean ± standard deviation)" if seeds > 1 else "")
    against = "; in brackets the change relative to MP" if pruned(results) else ", nothing pruned"
    again = (
        f", and {_scores(control, measure)} after as many steps of retraining"
        if control and trial.retrain_steps
        else ""
    )
    parts = [
        f"{measure.title(f'of {network_name(trial)} {when(trial)}')}; {over}{against}.",
        f"Unpruned: {_scores(list(trained.values()), measure)}{again}.",
        f"{trial.train_steps:,} training and {trial.retrain_steps:,} retraining steps, "
        f"batches of {trial.batch_size}, learning rate {trial.learning_rate:g}{_others(trial)}.",
    ]
    if published:
        parts.append(f"Rows “paper”: {published[0]}, 5 trials, unpruned {published[1].unpruned}%.")
    return " ".join(parts)


def published_for(trial: Trial) -> tuple[str, Table] | None:
    """Return the name of the paper's table of the same network on the same data, and what it holds.

    None for a schedule that is not the paper's, a narrower network, resized images, fewer of them.
    """
    other = trial.divisor != 1 or trial.widths or trial.side or trial.train_on
    if other or trial.schedule != "one-shot":
        return None
    return table_for(trial.model, trial.activation, trial.dataset)


def when(trial: Trial) -> str:
    """Return at which moment the networks of a run are judged in the end."""
    return "after retraining" if trial.retrain_steps else "without retraining"


def network_name(trial: Trial) -> str:
    """Return what is trained on what."""
    return f"{trial.model} ({trial.activation}) on {trial.dataset}"


def sheets(results: Sequence[Result]) -> list[Sheet]:
    """Return the tables of a run: a column per level, headed by the share of weights kept.

    First the test error after retraining, of a text the cross entropy (`measure_of`), a row per
    method, with the change relative to MP in brackets and, where the paper has the same network on
    the same data, the paper's figures below. Under its heads stand the least and the greatest
    density of a layer and the share of multiply-adds, where they were counted: means over methods
    and seeds. Then the share of the kept weights that are effective; the same before retraining;
    what is less or more than MP's on the same network; the cross entropy, of a text the error,
    after and before retraining; the training error, and the gap between test and training (Figure
    4); and the share of multiply-adds that the kept weights take. A cell of fewer seeds than the
    others says how many. Only the last evaluation counts: nothing is chosen by test data.

    Args:
      results: at least one, of one run: the settings are the same except for way, level, seed. Of
        the control alone there is no table.

    Raises:
      ValueError: for results of several runs.
    """
    if len(by_run(results)) > 1:
        raise ValueError("results of several runs in one table")
    trial, results = results[0].trial, pruned(results)
    if not results:
        return []
    published = published_for(trial)
    measure, moment = measure_of(results), when(trial)
    other = ERROR if measure is BITS else BITS
    found = [
        _sheet(measure.title(moment), results, after(measure), measure.unit,
               paper=published[1] if published else None)._replace(levels=_levels(results)),
        _sheet("Weights on a path from input to output (effective), % of the kept ones", results,
               lambda result: result.effective, gain=False),
        _sheet("Before retraining", results, _before(measure), measure.unit),
        _sheet(measure.title("less MP's on the same network"), results,
               _less_baseline(results, measure), measure.unit, gain=False),
        _sheet(other.title(moment), results, after(other), other.unit, gain=False),
        _sheet(other.title("before retraining"), results, _before(other), other.unit, gain=False),
        _sheet(f"Training error {moment}", results, lambda r: r.retrained.train_error),
        _sheet(f"{measure.title('less that of training')}, {moment}", results,
               lambda result: measure.gap(result.retrained), measure.unit, gain=False),
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
    kept = {result.trial.level: result.kept for run in runs for result in run}
    levels = sorted(kept)
    measure = measure_of([result for run in runs for result in run])
    rows = []
    for run in runs:
        cells, _, ways = cells_of(run, after(measure), measure.unit)
        rows += [
            Row(f"{schedule_of(run[0].trial)}, {way}",
                tuple(_text(cells, way, level) for level in levels))
            for way in ways
        ]  # fmt: skip
    title = f"{measure.title('after retraining by schedule')}, {network_name(trial)}"
    return Sheet(title, tuple(f"{kept[level]:.2%}" for level in levels), tuple(rows))


def cells_of(
    results: Sequence[Result], number: Number, unit: float = 100.0
) -> tuple[Cells, dict[float, float], list[str]]:
    """Return cells by way and level, the share kept at each level, and ways in paper order."""
    groups: dict[tuple[str, float], list[float]] = {}
    kept: dict[float, float] = {}
    for result in results:
        value = number(result)
        kept[result.trial.level] = result.kept
        if value is not None:
            groups.setdefault((result.trial.way, result.trial.level), []).append(value)
    return {key: _cell(values, unit) for key, values in groups.items()}, kept, ways_of(results)


def ways_of(results: Sequence[Result]) -> list[str]:
    """Return the ways of pruning that results are of, without the control.

    Methods come in the order of the paper, each followed by its variants in the order of the
    results.
    """
    found = {result.trial.way: result.trial.method for result in results}
    named = dict.fromkeys([*METHODS, *(method.removesuffix(SHUFFLED) for method in found.values())])
    methods = [name for method in named for name in (method, method + SHUFFLED)]
    own = {way: methods.index(method) for way, method in found.items() if method != UNPRUNED}
    return sorted(own, key=lambda way: (own[way], way != found[way]))


def pruned(results: Sequence[Result]) -> list[Result]:
    """Return the results without those of the control."""
    return [result for result in results if result.trial.method != UNPRUNED]


def _sheet(
    title: str, results: Sequence[Result], number: Number, unit: float = 100.0,
    paper: Table | None = None, gain: bool = True,
) -> Sheet:  # fmt: skip
    cells, kept, ways = cells_of(results, number, unit)
    levels = sorted(kept)
    most = max((cell.seeds for cell in cells.values()), default=0)
    rows = []
    for way in ways:
        texts = tuple(_text(cells, way, level, most, gain) for level in levels)
        rows.append(Row(f"{way} (baseline)" if way == "MP" and gain else way, texts))
        if paper and way in paper.errors:
            quoted = tuple(_published(paper, way, level) for level in levels)
            rows.append(Row("paper", quoted, quoted=True))
    return Sheet(title, tuple(f"{kept[level]:.2%}" for level in levels), tuple(rows))


def _levels(results: Sequence[Result]) -> tuple[Row, ...]:
    """Return what a level leaves, beside the share of weights: means over methods and seeds."""
    groups: dict[float, list[Result]] = {}
    for result in results:
        groups.setdefault(result.trial.level, []).append(result)
    found = []
    for name, text in (("density of layers", _densities), ("multiply-adds", _multiply_adds)):
        texts = tuple(text(groups[level]) for level in sorted(groups))
        if any(each != "-" for each in texts):
            found.append(Row(name, texts))
    return tuple(found)


def _densities(results: Sequence[Result]) -> str:
    shares = [[layer.kept / layer.size for layer in r.layers] for r in results if r.layers]
    if not shares:
        return "-"
    least, most = (100 * statistics.fmean(map(pick, shares)) for pick in (min, max))
    return f"{_share(least)}-{_share(most)}%"


def _share(percent: float) -> str:
    return f"{percent:.0f}" if percent >= 10 else f"{percent:.2g}"


def _multiply_adds(results: Sequence[Result]) -> str:
    shares = [r.multiply_adds for r in results if r.multiply_adds is not None]
    return f"{statistics.fmean(shares):.2%}" if shares else "-"


def after(measure: Measure) -> Number:
    """Return how networks are judged after the last step of retraining."""
    return lambda result: measure.test(result.retrained)


def _before(measure: Measure) -> Number:
    """Return how networks are judged before retraining, where there is any."""
    return lambda result: measure.test(result.pruned) if result.trial.retrain_steps else None


def _less_baseline(results: Sequence[Result], measure: Measure) -> Number:
    """Return how much more a result has than MP's of the same seed and level."""
    number = after(measure)
    base = {
        (result.trial.seed, result.trial.level): number(result)
        for result in results
        if result.trial.way == "MP"
    }

    def difference(result: Result) -> float | None:
        own, same = number(result), base.get((result.trial.seed, result.trial.level))
        if own is None or same is None or result.trial.way == "MP":
            return None
        return own - same

    return difference


def _scores(evaluations: Sequence[Evaluation], measure: Measure) -> str:
    """Return test error and, where it was measured, cross entropy over networks."""
    told = []
    for each in (ERROR, BITS) if measure is ERROR else (BITS, ERROR):
        values = [value for moment in evaluations if (value := each.test(moment)) is not None]
        told += [f"{_cell(values, each.unit)}{each.sign}"] if values else []
    first, *others = told
    return first + "".join(f" ({other})" for other in others)


def _cell(values: Sequence[float], unit: float = 100.0) -> Cell:
    scaled = [unit * value for value in values]
    std = statistics.stdev(scaled) if len(scaled) > 1 else None
    # Percent are told to a hundredth, bits, where two ways differ by less, to a thousandth.
    return Cell(statistics.fmean(scaled), std, len(scaled), 2 if unit == 100 else 3)


def _text(cells: Cells, way: str, level: float, seeds: int = 0, gain: bool = True) -> str:
    cell, baseline = cells.get((way, level)), cells.get(("MP", level))
    if cell is None:
        return "-"
    text = str(cell)
    if gain and way not in ("MP", "RP") and baseline is not None and baseline.mean > 0:
        text += f" ({cell.mean / baseline.mean - 1:+.2%})"
    return f"{text} [{count_of(cell.seeds, 'seed')}]" if cell.seeds < seeds else text


def _others(trial: Trial) -> str:
    """Name the settings that are not at their default."""
    parts = []
    if trial.decay != "none":
        parts.append(f"{trial.decay} decay to zero in each")
    if trial.schedule != "one-shot":
        parts.append(f"{trial.schedule} pruning in {count_of(trial.cycles, 'step')}")
    if trial.divisor > 1:
        parts.append(f"widths divided by {trial.divisor}")
    if trial.widths:
        parts.append(f"hidden layers of {trial.widths.replace(',', ', ')}")
    if trial.side:
        parts.append(f"images of {trial.side} x {trial.side}")
    if trial.train_on:
        parts.append(f"trained on the first {trial.train_on:,} examples")
    if not trial.augment:
        parts.append("no augmentation")
    if trial.same_batches:
        parts.append("the same batches in every retraining of a network")
    if trial.shrunk:
        parts.append("retrained without dead neurons")
    if trial.dtype != "float32":
        parts.append(f"computed in {trial.dtype}")
    if trial.evaluate_on:
        parts.append(f"errors over the first {trial.evaluate_on:,} examples of each split")
    return "".join(f", {part}" for part in parts)


def count_of(number: int, noun: str) -> str:
    """Return a number of things, in words."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _published(table: Table, way: str, level: float) -> str:
    if level not in table.taus:
        return "-"
    mean, std = table.errors[way][table.taus.index(int(level))]
    return f"{mean:.2f}±{std:.2f}"

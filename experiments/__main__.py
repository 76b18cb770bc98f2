"""Command line: run, show, plot, prepare."""

from __future__ import annotations

import difflib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.results import (
    Result,
    ResultsError,
    Store,
    Trial,
    by_run,
    write_atomically,
    write_csv,
)
from lap_jax import METHODS, PruningError

Names = Literal["digits", "mnist", "fashion_mnist", "cifar10"]

INTERRUPTED = 128 + 2
"""Exit status of a process that SIGINT ends."""


class BadFlag(Exception):
    """A flag's value is of no use; the message says which and why."""


@dataclass(frozen=True)
class Run:
    """Train, prune by every method at every level, measure, retrain, measure.

    The defaults are the paper's settings (Appendix C). A run that was interrupted goes on where it
    stopped when the same command is given again.
    """

    model: Literal["fcn", "linear"] = "fcn"
    """fcn: four hidden layers of 500; linear: one hidden layer of 1,000, no activation."""
    activation: Literal["relu", "tanh", "sigmoid", "none"] | None = None
    """Of the hidden layers; by default relu for fcn, none for linear."""
    dataset: Names = "digits"
    """digits needs no download; the others are read from --data-dir."""
    data_dir: Path | None = None
    """Folder of prepared TensorFlow Datasets (see: python -m experiments prepare)."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Pruning methods, by the paper's names."""
    taus: tuple[int, ...] = (4, 5, 6, 7, 8, 9, 10)
    """Levels: a dense layer keeps 0.5**tau of its weights, the last one 0.75**tau."""
    seeds: int = 5
    """Number of networks trained, each pruned by every method at every level."""
    train_steps: int = 50_000
    """Steps of Adam before pruning."""
    retrain_steps: int = 50_000
    """Steps of Adam after pruning."""
    batch_size: int = 60
    """Examples per step."""
    learning_rate: float | None = None
    """Of Adam; by default 1.2e-3 for fcn, 3e-4 for linear."""
    out: Path = Path("results/run")
    """Folder of the results: results.sqlite, results.csv, table.md, figure.png."""


@dataclass(frozen=True)
class Show:
    """Print the table of a run: one per setting, where a folder holds several."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the results."""


@dataclass(frozen=True)
class Plot:
    """Draw the picture of a run again: one per setting, where a folder holds several."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the results."""


@dataclass(frozen=True)
class Prepare:
    """Make a data set from its published files with TensorFlow Datasets, without TensorFlow."""

    dataset: Annotated[Literal["mnist", "fashion_mnist", "cifar10"], tyro.conf.Positional]
    """Which data set."""
    data_dir: Path
    """Folder to write to."""
    files: Path | None = None
    """Folder that holds the published files; without it TensorFlow Datasets downloads them."""
    accept_mismatch: bool = False
    """Take files whose checksums are not the published ones."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    from experiments.datasets import DataError

    command = tyro.cli(Run | Show | Plot | Prepare, prog="python -m experiments", args=arguments)
    try:
        match command:
            case Run():
                run(command)
            case Show():
                print("\n\n".join(_table(results) for results in by_run(_stored(command.folder))))
            case Plot():
                runs = by_run(_stored(command.folder))
                for number, results in enumerate(runs, 1):
                    name = f"figure-{number}.png" if len(runs) > 1 else "figure.png"
                    print(f"picture: {_draw(results, command.folder / name)}")
            case Prepare():
                from experiments.datasets import prepare

                print(
                    prepare(command.dataset, command.files, command.data_dir,
                            accept_mismatch=command.accept_mismatch)
                )  # fmt: skip
    except (BadFlag, DataError, PruningError, ResultsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def interrupted(*_: object) -> None:
    """End the process, on SIGINT.

    At once, because whatever is on disk is whole at every moment. Python's own way, an exception,
    is lost where it is raised inside a callback, and takes the interpreter down around XLA's
    threads, which crash.
    """
    shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # the cursor, which a bar hides
    text = f"{shown}\ninterrupted: the same command goes on where this one stopped\n"
    os.write(2, text.encode())  # not print: the signal may have come in the middle of one
    os._exit(INTERRUPTED)


def run(command: Run) -> None:
    """Run the trials that have no result yet, then write and print the table and the picture."""
    wanted = trials_of(command)
    from experiments import datasets, trials
    from experiments.progress import progress

    dataset = datasets.load(command.dataset, command.data_dir)
    if command.batch_size > len(dataset.train_y):
        raise BadFlag(
            f"--batch-size is {command.batch_size}: {command.dataset} has "
            f"{len(dataset.train_y)} examples"
        )
    store = Store(command.out)
    todo = trials.pending(wanted, store)
    steps = trials.steps_to_do(todo, store)
    print(
        f"{wanted[0].model} ({wanted[0].activation}) on {command.dataset}; trials: {len(wanted)} "
        f"(methods: {len(set(command.methods))}, levels: {len(set(command.taus))}, "
        f"seeds: {command.seeds}), to do: {len(todo)}, {steps:,} steps",
        flush=True,
    )
    if todo:
        with progress(steps, "steps") as (tick, say):
            for result in trials.run(todo, dataset, store, tick):
                trial = result.trial
                say(
                    f"seed {trial.seed} {trial.method} at {result.kept:.2%}: test error "
                    f"{result.unpruned:.2%} trained, {result.before:.2%} pruned, "
                    f"{result.after:.2%} retrained"
                )
    from experiments import tables

    by_trial = {result.trial: result for result in store.load()}
    results = [by_trial[trial] for trial in wanted]
    write_csv(results, command.out / "results.csv")
    table = _table(results)
    write_atomically(command.out / "table.md", table.encode())
    picture = _draw(results, command.out / "figure.png")
    print(f"\n{table}\n\npicture: {picture}\n\n{tables.sentence(results)}")


def trials_of(command: Run) -> list[Trial]:
    """Return the trials of a run, network by network; raise `BadFlag` for flags of no use."""
    from experiments.models import MODELS

    for method in command.methods:
        if method not in METHODS:
            close = difflib.get_close_matches(method, METHODS, n=3, cutoff=0.3) or METHODS
            raise BadFlag(f"--methods: unknown method {method!r}; nearest: {', '.join(close)}")
    for name, least in (("seeds", 1), ("train_steps", 0), ("retrain_steps", 0), ("batch_size", 1)):
        value = getattr(command, name)
        if value < least:
            raise BadFlag(f"--{name.replace('_', '-')} is {value}: expected {least} or more")
    if not command.methods:
        raise BadFlag("--methods names no method")
    if not command.taus or min(command.taus) < 0:
        raise BadFlag(f"--taus is {command.taus}: expected levels of 0 or more")
    setting = MODELS[command.model]
    learning_rate = (
        setting.learning_rate if command.learning_rate is None else command.learning_rate
    )
    if not learning_rate > 0:
        raise BadFlag(f"--learning-rate is {learning_rate}: expected a positive number")
    return [
        Trial(
            model=command.model,
            activation=command.activation or setting.activation,
            dataset=command.dataset,
            method=method,
            tau=tau,
            seed=seed,
            train_steps=command.train_steps,
            retrain_steps=command.retrain_steps,
            batch_size=command.batch_size,
            learning_rate=learning_rate,
        )
        for seed in range(command.seeds)
        for method in dict.fromkeys(command.methods)
        for tau in dict.fromkeys(command.taus)
    ]


def _stored(folder: Path) -> list[Result]:
    if not (folder / "results.sqlite").exists():
        raise BadFlag(f"no results in {folder}: it holds no results.sqlite")
    results = Store(folder).load()
    if not results:
        raise BadFlag(f"no results in {folder} yet")
    return results


def _table(results: list[Result]) -> str:
    from experiments.tables import table

    return table(results)


def _draw(results: list[Result], path: Path) -> Path:
    from experiments.figures import plot

    return plot(results, path)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, interrupted)
    sys.exit(main())

"""Command line: run, paper, show, plot, status, prepare."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro

from experiments.commands import (
    BadFlag,
    Paper,
    Plot,
    Prepare,
    Run,
    Show,
    Status,
    trials_of,
)
from experiments.results import Result, ResultsError, Store
from lap_jax import PruningError

INTERRUPTED = 128 + 2
"""Exit status of a process that SIGINT ends."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    from experiments.datasets import DataError

    command = tyro.cli(
        Run | Paper | Show | Plot | Status | Prepare, prog="python -m experiments", args=arguments
    )
    try:
        match command:
            case Run():
                run(command)
            case Paper():
                work(command.runs(), command.out or Path("results") / command.target)
            case Show():
                from experiments import report

                print(report.text(_stored(command.folder)))
            case Plot():
                from experiments import report

                print(report.write(_stored(command.folder), command.folder))
            case Status():
                from experiments.status import status

                if not command.folder.is_dir():
                    raise BadFlag(f"no sweep in {command.folder}: there is no such folder")
                print(status(command.folder))
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
    """Run the trials that have no result yet, then write and print what all of them show."""
    work([command], command.out)


def work(commands: Sequence[Run], folder: Path) -> None:
    """Run the trials of several commands on one data set in one folder.

    The way of working (data, width, checkpoints) is the first command's.
    """
    wanted = [trial for command in commands for trial in trials_of(command)]
    first = commands[0]
    from experiments import datasets
    from experiments.devices import one_device_per_core
    from experiments.progress import progress
    from experiments.status import write_plan

    dataset = datasets.load(wanted[0].dataset, first.data_dir)
    if first.batch_size > len(dataset.train_y):
        raise BadFlag(
            f"--batch-size is {first.batch_size}: {dataset.name} has "
            f"{len(dataset.train_y)} examples"
        )
    if first.evaluate_on > len(dataset.test_y):
        raise BadFlag(
            f"--evaluate-on is {first.evaluate_on}: {dataset.name} has {len(dataset.test_y)} "
            "examples to test on"
        )
    store = Store(folder)
    write_plan(folder, wanted)
    one_device_per_core()
    from experiments.sweep import Options, Sweep

    sweep = Sweep(wanted, dataset, store, Options(first.width, first.checkpoint_seconds))
    of = {f"{trial.model} ({trial.activation})": None for trial in wanted}
    print(
        f"{', '.join(of)} on {dataset.name}; trials: {len(wanted)}, to do: {sweep.trials_left}, "
        f"{sweep.steps_left:,} steps",
        flush=True,
    )
    if sweep.trials_left:
        start = time.time()
        with progress(sweep.steps_left, "steps") as (show, say):
            sweep.run(_told(show, folder, sweep.steps_left), say)
        spent = time.time() - start
        print(f"{spent:.0f} s, {1 - sweep.training_seconds / spent:.1%} of them not in training")
    by_trial = {result.trial: result for result in store.load()}
    results = [by_trial[trial] for trial in wanted]
    from experiments import report

    print(f"\n{report.write(results, folder)}")


def _told(show: Callable[[int], None], folder: Path, total: int) -> Callable[[int], None]:
    """Return a tick that also writes the progress down, every few seconds."""
    from experiments.status import write_progress

    start = last = time.time()
    done = 0
    write_progress(folder, done, total, start)

    def tick(count: int) -> None:
        nonlocal done, last
        done += count
        show(count)
        if time.time() - last > 5 or done >= total:
            last = time.time()
            write_progress(folder, done, total, start)

    return tick


def _stored(folder: Path) -> list[Result]:
    if not (folder / "results.sqlite").exists():
        raise BadFlag(f"no results in {folder}: it holds no results.sqlite")
    results = Store(folder).load()
    if not results:
        raise BadFlag(f"no results in {folder} yet")
    return results


if __name__ == "__main__":
    signal.signal(signal.SIGINT, interrupted)
    sys.exit(main())

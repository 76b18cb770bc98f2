"""What `run` and `paper` do, from the plan to the page."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.cli.commands import BadFlag, Run, trials_of
from experiments.store import Result, Store


def run(command: Run) -> None:
    """Run the trials that have no result yet, then write and print what all of them show."""
    work([command], command.out)


def work(commands: Sequence[Run], folder: Path) -> None:
    """Run the trials of several commands on one data set in one folder.

    The way of working (data, width, checkpoints) is the first command's.
    """
    wanted = [trial for command in commands for trial in trials_of(command)]
    first = commands[0]
    from experiments import data
    from experiments.running.devices import one_device_per_core
    from experiments.running.progress import progress
    from experiments.running.status import write_plan

    dataset = data.load(wanted[0].dataset, first.data_dir)
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
    from experiments.running.sweep import Options, Sweep

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
    from experiments.reporting import report

    print(f"\n{report.write(results, folder)}")


def _told(show: Callable[[int], None], folder: Path, total: int) -> Callable[[int], None]:
    """Return a tick that also writes the progress down, every few seconds."""
    from experiments.running.status import write_progress

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


def stored(folder: Path) -> list[Result]:
    """Return the results of a folder; raise `BadFlag` if there are none."""
    if not (folder / "results.sqlite").exists():
        raise BadFlag(f"no results in {folder}: it holds no results.sqlite")
    results = Store(folder).load()
    if not results:
        raise BadFlag(f"no results in {folder} yet")
    return results

"""What `run` and `paper` do, from the plan to the page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import lap_jax
from experiments.cli.commands import BadFlag, Run
from experiments.cli.wanted import trials_of
from experiments.data import load
from experiments.data.source import Dataset
from experiments.reporting import report
from experiments.running.devices import one_device_per_core
from experiments.running.progress import Tick, progress
from experiments.running.pruning import neurons_of, weights_left
from experiments.running.status import write_plan, write_progress
from experiments.running.sweep import Options, Sweep
from experiments.store import Result, Store
from experiments.trial import Trial, as_declared

Data = tuple[str, int, int]
"""What decides the examples of a trial: data set, number, size of images."""


def run(command: Run) -> None:
    """Run the trials that have no result yet, then write and print what all of them show."""
    work([command], command.out)


def work(commands: Sequence[Run], folder: Path) -> None:
    """Run the trials of several commands in one folder, one data set after the other.

    The way of working (folder of data, width, checkpoints) is the first command's.
    """
    wanted = [trial for command in commands for trial in trials_of(command)]
    first = commands[0]
    groups: dict[Data, list[Trial]] = {}
    for trial in wanted:
        groups.setdefault((trial.dataset, trial.train_on, trial.side), []).append(trial)
    one_device_per_core()
    # All that can be wrong is looked for before anything is trained.
    datasets = {each: load(each[0], first.data_dir, *each[1:]) for each in groups}
    for each, trials in groups.items():
        check(trials, datasets[each])
    store = Store(folder)
    write_plan(folder, wanted)
    options = Options(first.width, first.checkpoint_seconds, keep=getattr(first, "keep", False))
    sweeps = [Sweep(trials, datasets[each], store, options) for each, trials in groups.items()]
    of = {f"{trial.model} ({trial.activation})": None for trial in wanted}
    left = sum(sweep.trials_left for sweep in sweeps)
    steps = sum(sweep.steps_left for sweep in sweeps)
    print(
        f"{', '.join(of)} on {', '.join(dict.fromkeys(name for name, *_ in groups))}; "
        f"trials: {len(wanted)}, to do: {left}, {steps:,} steps",
        flush=True,
    )
    if left:
        start = time.time()
        with progress(steps, "steps") as (show, say):
            tick = _told(show, folder, steps)
            for sweep in sweeps:
                sweep.run(tick, say)
        spent = time.time() - start
        training = sum(sweep.training_seconds for sweep in sweeps)
        print(f"{spent:.0f} s, {1 - training / spent:.1%} of them not in training")
    by_trial = {result.trial: result for result in store.load()}
    print(f"\n{report.write([by_trial[trial] for trial in wanted], folder)}")


def check(trials: Sequence[Trial], dataset: Dataset) -> None:
    """Raise `BadFlag` for trials that the data cannot serve, or that leave nothing."""
    for trial in trials:
        if trial.batch_size > len(dataset.train_y):
            raise BadFlag(
                f"--batch-size is {trial.batch_size}: {dataset.name} has "
                f"{len(dataset.train_y)} examples"
            )
        if trial.evaluate_on > len(dataset.test_y):
            raise BadFlag(
                f"--evaluate-on is {trial.evaluate_on}: {dataset.name} has {len(dataset.test_y)} "
                "examples to test on"
            )
    for trial in {trial.level: trial for trial in trials}.values():
        for name, (left, size) in weights_left(as_declared(trial), dataset).items():
            if not left:
                raise BadFlag(
                    f"{_level(trial)}: {name} of {trial.model} would keep none of its "
                    f"{size:,} weights; a lower level keeps some"
                )
    neurons = {trial.level: trial for trial in trials if trial.scope == "neuron"}
    for trial in neurons.values():
        try:
            neurons_of(trial, dataset)
        except lap_jax.PruningError as error:
            raise BadFlag(f"{_level(trial)}, of {trial.way!r}: {error}") from None


def _level(trial: Trial) -> str:
    """Name the flag that a trial's level comes from, and the level."""
    return f"--{'sparsity' if trial.sparsity else 'taus'} is {trial.level}"


def _told(show: Tick, folder: Path, total: int) -> Tick:
    """Return a tick that also writes the progress down, every few seconds."""
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

"""The command that makes results again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from experiments.data import SOURCES
from experiments.reporting.tables import pruned, ways_of
from experiments.store import Result
from experiments.trial import DEFAULTS, UNPRUNED


def command_of(results: Sequence[Result]) -> str:
    """Return the command line of a run: all that its results depend on, defaults left out.

    Results that are not there yet, of a way, level or seed that others have, it makes too.

    Args:
      results: at least one, of one run.
    """
    trial, own = results[0].trial, pruned(results)
    words = ["python", "-m", "experiments", "run", "--model", trial.model]
    words += ["--activation", trial.activation, "--dataset", trial.dataset]
    source = SOURCES.get(trial.dataset)
    if source is None or source.published:
        words += ["--data-dir", "DIR"]
    words += ["--methods", *ways_of(own)]
    if own:
        taus = sorted({result.trial.tau for result in own if not result.trial.sparsity})
        fractions = sorted({result.trial.sparsity for result in own} - {0.0})
        for flag, values in (("--taus", taus), ("--sparsity", fractions)):
            words += [flag, *map(str, values)] if values else []
    words += ["--seeds", str(1 + max(result.trial.seed for result in results))]
    words += ["--train-steps", str(trial.train_steps)]
    words += ["--retrain-steps", str(trial.retrain_steps)]
    words += ["--batch-size", str(trial.batch_size)]
    words += ["--learning-rate", f"{trial.learning_rate:g}"]
    if trial.decay != "none":
        words += ["--decay", trial.decay]
    if trial.schedule != "one-shot":
        words += ["--schedule", trial.schedule, "--cycles", str(trial.cycles)]
    if all(result.trial.method != UNPRUNED for result in results):
        words.append("--no-control")
    for name in ("divisor", "side", "train_on"):
        if getattr(trial, name) != DEFAULTS[name]:
            words += [f"--{name.replace('_', '-')}", str(getattr(trial, name))]
    words += ["--no-augment"] * (not trial.augment) + ["--same-batches"] * trial.same_batches
    words += ["--shrunk"] * trial.shrunk
    words += ["--widths", *trial.widths.split(",")] if trial.widths else []
    if trial.dtype != "float32":
        words += ["--dtype", trial.dtype]
    if trial.evaluate_every:
        words += ["--evaluate-every", str(trial.evaluate_every)]
    if trial.evaluate_on:
        words += ["--evaluate-on", str(trial.evaluate_on)]
    return shlex.join(words)

"""The trials that a command wants, and every check of its flags that needs no data."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any

from experiments.cli.commands import BadFlag, Run
from experiments.data import SOURCES
from experiments.methods import METHODS, measured_by, method_named
from experiments.networks import MODELS
from experiments.networks.setting import Setting, resized
from experiments.trial import GROUPS, SHUFFLED, UNPRUNED, Trial, choices_of

LEAST = {
    "seeds": 1, "train_steps": 0, "retrain_steps": 0, "batch_size": 1, "cycles": 1, "divisor": 1,
    "side": 0, "train_on": 0, "evaluate_every": 0, "evaluate_on": 0, "width": 0,
}  # fmt: skip
"""The least value of each flag that is a number of something."""


def trials_of(command: Run) -> list[Trial]:
    """Return the trials of a run, seed by seed; raise `BadFlag` for flags of no use."""
    setting = MODELS[command.model]
    ways = [_choices(way, command, setting) for way in command.methods]

    def chosen(name: str) -> Any:
        value = getattr(command, name)
        return getattr(setting, name) if value is None else value

    taus = () if command.sparsity and command.taus is None else chosen("taus")
    same = Trial(
        model=command.model,
        activation=chosen("activation"),
        dataset=chosen("dataset"),
        method="",
        tau=0,
        seed=0,
        train_steps=chosen("train_steps"),
        retrain_steps=chosen("retrain_steps"),
        batch_size=command.batch_size,
        learning_rate=chosen("learning_rate"),
        dtype=command.dtype,
        evaluate_every=command.evaluate_every,
        evaluate_on=command.evaluate_on,
        divisor=command.divisor,
        widths=",".join(map(str, command.widths)),
        side=command.side,
        train_on=command.train_on,
        augment=command.augment or not setting.augment,
        same_batches=command.same_batches,
        shrunk=command.shrunk,
        decay=command.decay,
    )
    _check_numbers(command, same, taus)
    _check_widths(command, same, setting)
    _check_data(same, setting)
    levels = [{"tau": tau} for tau in taus] + [{"sparsity": each} for each in command.sparsity]
    # What is named twice is run once.
    cells = list(
        dict.fromkeys(
            replace(same, **way, **level) for way in ways for level in _levels(way, levels)
        )
    )
    # The control is the same under every schedule: it is run under the first.
    control = [replace(same, method=UNPRUNED)] if command.control else []
    return [
        replace(
            cell, seed=seed, schedule=schedule,
            cycles=1 if schedule == "one-shot" else command.cycles,
        )
        for schedule in dict.fromkeys(command.schedule)
        for seed in range(command.seeds)
        for cell in [*cells, *(control if schedule == command.schedule[0] else ())]
    ]  # fmt: skip


def _levels(way: dict[str, Any], levels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the levels of a way to prune: n of each m weights are a level of their own."""
    if way.get("scope") not in GROUPS:
        return levels
    n, m, _ = GROUPS[way["scope"]]
    return [{"sparsity": 1 - n / m}]


def _choices(way: str, command: Run, setting: Setting) -> dict[str, Any]:
    """Read one of ``--methods`` and see whether it goes with the rest."""
    try:
        found = choices_of(way)
    except ValueError as error:
        raise BadFlag(f"--methods: {error}") from None
    name = found["method"].removesuffix(SHUFFLED)
    if name not in METHODS and ":" not in name:
        close = difflib.get_close_matches(name, METHODS, n=3, cutoff=0.3) or METHODS
        raise BadFlag(f"--methods: unknown method {way!r}; nearest: {', '.join(close)}")
    try:
        method = method_named(name)
    except ValueError as error:
        raise BadFlag(f"--methods: {error}") from None
    measured = "measured" in found or bool(measured_by(name))
    if "calibration" in found and not measured and "repair" not in found:
        raise BadFlag(f"--methods: 'calibration' in {way!r} goes with what is measured or repaired")
    alone = (
        found["method"].endswith(SHUFFLED)
        or measured
        or {"scope", "repair", "rates"} & found.keys()
    )
    if alone and set(command.schedule) != {"one-shot"}:
        raise BadFlag(f"--methods: {way!r} goes with --schedule one-shot alone")
    if measured and "graph" not in found and found.get("scope") != "neuron" and setting.chain:
        raise BadFlag(f"--methods: {way!r} needs graph=traced: what is not traced is not measured")
    if "rates" in found and "scope" in found:
        raise BadFlag(f"--methods: {way!r}: a scope spreads weights by itself, without rates")
    if found.get("scope") in ("global", "lamp") and method.order:
        raise BadFlag(f"--methods: {way!r}: a layer after the other does not go with all at once")
    if found.get("scope") == "neuron" and (
        {"graph", "effective", "lags"} & found.keys()
        or found["method"].endswith(SHUFFLED)
        or method.direction != "both"
    ):
        raise BadFlag(
            f"--methods: {way!r}: whole neurons of the traced network go, by what makes and reads "
            "them: leave graph, effective, lags, one-sided and shuffled ways out"
        )
    if found.get("graph") == "identity" and not setting.chain_identity:
        raise BadFlag(f"--methods: {way!r}: {command.model} has no shortcuts")
    return found


def _check_widths(command: Run, same: Trial, setting: Setting) -> None:
    if not command.widths:
        return
    try:
        resized(setting.build(10, same.activation), command.widths)
    except ValueError as error:
        raise BadFlag(f"--widths: {error}") from None


def _check_numbers(command: Run, same: Trial, taus: tuple[int, ...]) -> None:
    for name, least in LEAST.items():
        value = getattr(same if hasattr(same, name) and name != "cycles" else command, name)
        if value < least:
            raise BadFlag(f"--{name.replace('_', '-')} is {value}: expected {least} or more")
    if not command.methods and not command.control:
        raise BadFlag("--methods names no method, and --no-control leaves nothing else to run")
    if (not taus and not command.sparsity) or min(taus, default=0) < 0:
        raise BadFlag(f"--taus is {taus}: expected levels of 0 or more")
    if not all(0 < each < 1 for each in command.sparsity):
        raise BadFlag(f"--sparsity is {command.sparsity}: expected fractions between 0 and 1")
    if not same.learning_rate > 0:
        raise BadFlag(f"--learning-rate is {same.learning_rate}: expected a positive number")


def _check_data(same: Trial, setting: Setting) -> None:
    if SOURCES[same.dataset].is_text != SOURCES[setting.dataset].is_text:
        kind = "text" if SOURCES[setting.dataset].is_text else "images"
        raise BadFlag(f"--dataset is {same.dataset}: {same.model} reads {kind}")
    if setting.side and not same.side and same.dataset != setting.dataset:
        raise BadFlag(
            f"--dataset is {same.dataset}: {same.model} reads images of 32 x 32, unless --side "
            "names another"
        )
    if same.side and same.side < setting.side:
        raise BadFlag(
            f"--side is {same.side}: {same.model} reads images of {setting.side} x {setting.side} "
            "or more"
        )

"""What the command line takes: each command and its flags, and the trials that they mean."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.store import Trial
from lap_jax import METHODS

Names = Literal["digits", "mnist", "fashion_mnist", "cifar10"]


class BadFlag(Exception):
    """A flag's value is of no use; the message says which and why."""


@dataclass(frozen=True)
class Run:
    """Train, prune by every method at every level, measure, retrain, measure.

    The defaults are the paper's settings (Appendix C). A run that was interrupted goes on where it
    stopped when the same command is given again; two that are given at once share the work.
    """

    model: Literal["fcn", "linear", "conv6", "vgg11", "vgg16", "vgg19", "resnet18"] = "fcn"
    """fcn: four hidden layers of 500; linear: one hidden layer of 1,000, no activation."""
    activation: Literal["relu", "tanh", "sigmoid", "none"] | None = None
    """Of the hidden layers; by default none for linear, relu for the others."""
    dataset: Names | None = None
    """digits needs no download; the others are read from --data-dir. By default digits for fcn and
    linear, cifar10 for the others."""
    data_dir: Path | None = None
    """Folder of prepared TensorFlow Datasets (see: python -m experiments prepare)."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Pruning methods, by the paper's names; "LAP shuffled" permutes LAP's masks within layers."""
    taus: tuple[int, ...] | None = None
    """Levels of the rule of Appendix C; by default those of the paper's table of the model."""
    seeds: int = 5
    """Number of networks trained, each pruned by every method at every level."""
    train_steps: int | None = None
    """Steps of Adam before pruning; by default the paper's."""
    retrain_steps: int | None = None
    """Steps of Adam after pruning; by default the paper's."""
    batch_size: int = 60
    """Examples per step."""
    learning_rate: float | None = None
    """Of Adam; by default 1.2e-3 for fcn, 3e-4 for the others."""
    schedule: tuple[Literal["one-shot", "iterative", "rewind", "gradual"], ...] = ("one-shot",)
    """How the sparsity is reached: at once before retraining; in cycles of pruning and retraining;
    the same from the initial network, to which the weights that are left go back each time; or
    while training, by a cubic schedule that lets pruned weights come back."""
    cycles: int = 5
    """Prunings of a schedule other than one-shot, within the steps of retraining."""
    control: bool = True
    """Also retrain each network unpruned, for as many steps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the networks compute in; parameters are float32."""
    evaluate_every: int = 0
    """Steps of retraining between evaluations; 0: at its end alone."""
    evaluate_on: int = 0
    """Examples of each split to evaluate on, the first ones; 0: all."""
    width: int = 0
    """Networks to train at once; 0: as many as the devices hold."""
    checkpoint_seconds: float = 60.0
    """Time between two checkpoints of the networks that are in training."""
    out: Path = Path("results/run")
    """Folder of the results."""


@dataclass(frozen=True)
class Paper:
    """Make a figure or a table of the paper: what `run` does, with its models and methods."""

    target: Annotated[
        Literal[
            "figure2", "figure3", "figure4",
            "table1", "table2", "table3", "table4", "table5", "table6",
        ],
        tyro.conf.Positional,
    ]  # fmt: skip
    """Which one."""
    data_dir: Path | None = None
    """Folder of prepared TensorFlow Datasets."""
    methods: tuple[str, ...] | None = None
    """Pruning methods; by default those of the figure or table."""
    taus: tuple[int, ...] | None = None
    """Levels; by default those of the paper."""
    seeds: int = 5
    """Number of networks trained."""
    train_steps: int | None = None
    """Steps of Adam before pruning; by default the paper's."""
    retrain_steps: int | None = None
    """Steps of Adam after pruning; by default the paper's."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the networks compute in; parameters are float32."""
    evaluate_every: int = 0
    """Steps of retraining between evaluations; 0: at its end alone."""
    evaluate_on: int = 0
    """Examples of each split to evaluate on, the first ones; 0: all."""
    width: int = 0
    """Networks to train at once; 0: as many as the devices hold."""
    checkpoint_seconds: float = 60.0
    """Time between two checkpoints of the networks that are in training."""
    out: Path | None = None
    """Folder of the results; by default results/TARGET."""

    def runs(self) -> list[Run]:
        """Return what `run` would be told, once per network."""
        from experiments.paper import TARGETS

        own = ("methods", "target", "out")
        given = {field.name: getattr(self, field.name) for field in fields(self)
                 if field.name not in own}  # fmt: skip
        return [
            Run(**target | given | ({"methods": self.methods} if self.methods else {}))
            for target in TARGETS[self.target]
        ]


@dataclass(frozen=True)
class Show:
    """Print the tables of a run and what they say, level by level: once per setting."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the results."""


@dataclass(frozen=True)
class Plot:
    """Write the tables, the pictures and the page of a run again."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the results."""


@dataclass(frozen=True)
class Status:
    """Say how far a sweep is: cells done, ETA, latest results."""

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


def trials_of(command: Run) -> list[Trial]:
    """Return the trials of a run, seed by seed; raise `BadFlag` for flags of no use."""
    from experiments.networks import MODELS
    from experiments.store import SHUFFLED, UNPRUNED

    setting = MODELS[command.model]
    for method in command.methods:
        if method.removesuffix(SHUFFLED) not in METHODS:
            close = difflib.get_close_matches(method, METHODS, n=3, cutoff=0.3) or METHODS
            raise BadFlag(f"--methods: unknown method {method!r}; nearest: {', '.join(close)}")

    def chosen(name: str, default: Any) -> Any:
        value = getattr(command, name)
        return default if value is None else value

    taus = chosen("taus", setting.taus)
    same = Trial(
        model=command.model,
        activation=chosen("activation", setting.activation),
        dataset=chosen("dataset", "cifar10" if setting.augment else "digits"),
        method="",
        tau=0,
        seed=0,
        train_steps=chosen("train_steps", setting.train_steps),
        retrain_steps=chosen("retrain_steps", setting.retrain_steps),
        batch_size=command.batch_size,
        learning_rate=chosen("learning_rate", setting.learning_rate),
        dtype=command.dtype,
        evaluate_every=command.evaluate_every,
        evaluate_on=command.evaluate_on,
    )
    for name, least in (
        ("seeds", 1), ("train_steps", 0), ("retrain_steps", 0), ("batch_size", 1), ("cycles", 1),
        ("evaluate_every", 0), ("evaluate_on", 0), ("width", 0),
    ):  # fmt: skip
        value = getattr(same if hasattr(same, name) and name != "cycles" else command, name)
        if value < least:
            raise BadFlag(f"--{name.replace('_', '-')} is {value}: expected {least} or more")
    if not command.methods:
        raise BadFlag("--methods names no method")
    if not taus or min(taus) < 0:
        raise BadFlag(f"--taus is {taus}: expected levels of 0 or more")
    if not same.learning_rate > 0:
        raise BadFlag(f"--learning-rate is {same.learning_rate}: expected a positive number")
    if setting.augment and same.dataset != "cifar10":
        raise BadFlag(f"--dataset is {same.dataset}: {command.model} reads images of 32 x 32")
    for method in command.methods:
        if method.endswith(SHUFFLED) and set(command.schedule) != {"one-shot"}:
            raise BadFlag(f"--methods: {method!r} goes with --schedule one-shot alone")
    cells = [(method, tau) for method in dict.fromkeys(command.methods)
             for tau in dict.fromkeys(taus)]  # fmt: skip
    # The control is the same under every schedule: it is run under the first.
    first = command.schedule[0]
    controls = {
        each: [(UNPRUNED, 0)] if command.control and each == first else []
        for each in command.schedule
    }
    return [
        replace(
            same, method=method, tau=tau, seed=seed, schedule=schedule,
            cycles=1 if schedule == "one-shot" else command.cycles,
        )
        for schedule in dict.fromkeys(command.schedule)
        for seed in range(command.seeds)
        for method, tau in [*cells, *controls[schedule]]
    ]  # fmt: skip

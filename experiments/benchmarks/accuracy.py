"""Does it prune better? Scores of small networks, pruned in many ways and retrained shortly.

A sweep like any other, of `experiments run`: what is special are its networks, its ways to prune,
and that all rows of a network retrain by the same batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.cli.commands import BadFlag, Run
from experiments.cli.work import work
from experiments.trial import DEFAULTS

WAYS = {
    "MP": "MP",
    "Eq5": "LAP",
    "lags-path": "LAP graph=main-path lags",
    "all-path": "LAP graph=main-path horizon=all",
    "LAP": "LAP graph=traced",
    "lags": "LAP graph=traced lags",
    "all": "LAP graph=traced horizon=all",
    "Wanda": "LBP graph=traced measured=input",
    "LAP-act": "LAP graph=traced measured=active",
    "LAP-measured": "LAP graph=traced measured=input,active,output",
}
"""What rows are called here, and what they are for `run --methods`."""


class Small(NamedTuple):
    """A network of the comparison.

    Attributes:
      ways: the rows of its table, of `WAYS`.
      sparsity: fraction removed of each layer but the first and the last.
      side: images have so many rows and columns; 0: it reads text.
      narrow: whether its widths are divided.
      batch_size: of training and retraining.
      evaluate_on: examples of each split that are evaluated; None: as many as flags say.
    """

    ways: tuple[str, ...]
    sparsity: float
    side: int
    narrow: bool = True
    batch_size: int = 64
    evaluate_on: int | None = None


CHAIN_WAYS = ("MP", "Eq5", "lags", "all")
TRANSFORMER_WAYS = ("MP", "Wanda", "LAP", "all", "LAP-measured")
RESNET_WAYS = (
    "MP", "Eq5", "lags-path", "LAP", "lags", "all", "Wanda", "LAP-act", "LAP-measured",
)  # fmt: skip

SMALL = {
    "resnet18": Small(RESNET_WAYS, 0.9, 16),
    "conv6": Small(CHAIN_WAYS, 0.9, 16),
    "vgg11": Small(CHAIN_WAYS, 0.9, 32),
    # The transformers are small already.
    "vit": Small(TRANSFORMER_WAYS, 0.7, 16, narrow=False),
    # The training text has 36 times as many examples as the test, of which there are 726.
    "charlm": Small(TRANSFORMER_WAYS, 0.7, 0, narrow=False, batch_size=32, evaluate_on=700),
}


@dataclass(frozen=True)
class Accuracy:
    """Compare ways to prune by what networks score before and after a short retraining."""

    models: tuple[Literal["resnet18", "conv6", "vgg11", "vit", "charlm"], ...] = (
        "resnet18", "conv6", "vgg11", "vit", "charlm",
    )  # fmt: skip
    """Which models; charlm, a language model of characters, reads text that comes with Python."""
    ways: tuple[str, ...] = ()
    """Which rows; by default those of each model."""
    dataset: Literal["cifar10", "mnist", "fashion_mnist", "digits"] = "cifar10"
    """The images; resized to 16x16 (vgg11: 32x32)."""
    data_dir: Path | None = None
    """Where `python -m experiments prepare` put the images."""
    images: int = 25_000
    """Training images, the first ones; less than all save memory. 0: all."""
    evaluate_on: int = 10_000
    """Images of each split that are evaluated, the first ones; 0: all."""
    seeds: int = 3
    """Networks of each model."""
    train_steps: int = 1000
    """Steps of Adam before pruning."""
    retrain_steps: int = 300
    """Steps of Adam after pruning; the batches are the same for all rows of a seed."""
    sparsity: float | None = None
    """Fraction removed of each pruned layer; by default each model's own."""
    divisor: int = 8
    """Divides the widths of resnet18, conv6 and vgg11."""
    calibration: int = 256
    """Training examples that measurements are made on."""
    out: Path = Path("results/benchmark-accuracy")
    """Folder of the results; the command goes on with what it finds there."""


def accuracy(command: Accuracy) -> None:
    """Do what is not done, write and print the tables; raise `BadFlag` for flags of no use."""
    work(runs_of(command), command.out)


def runs_of(command: Accuracy) -> list[Run]:
    """Return what `run` would be told, once per model.

    Raises:
      BadFlag: for a row that there is not.
    """
    for way in command.ways:
        if way not in WAYS:
            raise BadFlag(f"--ways: unknown {way!r}; there are {', '.join(WAYS)}")
    return [_run(command, model, SMALL[model]) for model in command.models]


def _run(command: Accuracy, model: str, small: Small) -> Run:
    own: dict[str, Any] = {"evaluate_on": small.evaluate_on}
    if small.side:
        own = {
            "dataset": command.dataset, "side": small.side, "train_on": command.images,
            "evaluate_on": command.evaluate_on,
        }  # fmt: skip
    return Run(
        model=model,
        data_dir=command.data_dir,
        methods=tuple(_way(name, command.calibration) for name in command.ways or small.ways),
        sparsity=(small.sparsity if command.sparsity is None else command.sparsity,),
        seeds=command.seeds,
        train_steps=command.train_steps,
        retrain_steps=command.retrain_steps,
        batch_size=small.batch_size,
        learning_rate=1e-3,
        control=False,
        divisor=command.divisor if small.narrow else 1,
        augment=False,
        same_batches=True,
        **own,
    )


def _way(name: str, calibration: int) -> str:
    way = WAYS[name]
    if "measured=" in way and calibration != DEFAULTS["calibration"]:
        return f"{way} calibration={calibration}"
    return way

"""What the command line takes: each command and its flags."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.extras import literal_type_from_choices

from experiments.data import SOURCES
from experiments.networks import MODELS
from experiments.paper import TARGETS
from lap_jax import METHODS

if TYPE_CHECKING:
    Model = str
    DataName = str
    Prepared = str
else:  # what the folders of networks and data sets hold
    Model = literal_type_from_choices(MODELS)
    DataName = literal_type_from_choices(SOURCES)
    Prepared = literal_type_from_choices([name for name in SOURCES if SOURCES[name].published])


class BadFlag(Exception):
    """A flag's value is of no use; the message says which and why."""


@dataclass(frozen=True)
class Run:
    """Train, prune by every method at every level, measure, retrain, measure.

    The defaults are the paper's settings (Appendix C). A run that was interrupted goes on where it
    stopped when the same command is given again; two that are given at once share the work.
    """

    model: Model = "fcn"
    """fcn: four hidden layers of 500; linear: one hidden layer of 1,000, no activation; vit: a
    small vision transformer; charlm, charlm6m: language models of characters, the second of six
    million parameters."""
    activation: Literal["relu", "tanh", "sigmoid", "none"] | None = None
    """Of the hidden layers; by default none for linear, relu for the paper's others."""
    dataset: DataName | None = None
    """digits and the texts python_reference and python_source need no download; the others are read
    from --data-dir. By default digits for fcn and linear, a text for language models, cifar10 for
    the others."""
    data_dir: Path | None = None
    """Folder of prepared TensorFlow Datasets (see: python -m experiments prepare)."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Pruning methods, by the paper's names; "LAP shuffled" permutes LAP's masks within layers.
    Wanda, RIA and DaSS are others', and "module:function" is a score of your own. Choices may
    follow: "LAP graph=traced horizon=all" or "LAP lags" look further or more exactly; "MP
    effective" keeps weights on paths from input to output, "MP steps=5" gets there in five passes;
    "LAP scope=global" compares all layers, "LAP scope=2:4" keeps 2 of each 4 weights, "LAP
    scope=neuron" removes whole neurons, channels and heads until no more parameters are left than
    the level leaves, "LAP rates=erk" spreads weights over the layers in another way than the
    level's rule, "LAP repair=channels" is repaired before it is retrained. None after the flag:
    the control alone, which tells whether a network has settled."""
    taus: tuple[int, ...] | None = None
    """Levels of the rule of Appendix C; by default those of the paper's table of the model."""
    sparsity: tuple[float, ...] = ()
    """Fractions removed of each layer, the first and the last left whole, in place of levels."""
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
    decay: Literal["none", "linear", "cosine"] = "none"
    """How the learning rate falls to zero, once over the steps of training and once more over those
    of retraining; none, as in the paper: it stays."""
    schedule: tuple[Literal["one-shot", "iterative", "rewind", "gradual"], ...] = ("one-shot",)
    """How the sparsity is reached: at once before retraining; in cycles of pruning and retraining;
    the same from the initial network, to which the weights that are left go back each time; or
    while training, by a cubic schedule that lets pruned weights come back."""
    cycles: int = 5
    """Prunings of a schedule other than one-shot, within the steps of retraining."""
    control: bool = True
    """Also retrain each network unpruned, for as many steps."""
    divisor: int = 1
    """Divides the widths of the network."""
    widths: tuple[int, ...] = ()
    """Of the hidden layers, one each (fcn, linear, conv6, vgg); of charlm of the stream, then heads
    and neurons of each block."""
    side: int = 0
    """Rows and columns that images are resized to; 0: as they are."""
    train_on: int = 0
    """Training examples, the first ones; 0: all."""
    augment: bool = True
    """Crop and flip the images of a network for CIFAR-10 at random."""
    same_batches: bool = False
    """Retrain by the same batches after every method and level."""
    shrunk: bool = False
    """Retrain what is left of each network once it is pruned, without its dead neurons."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the networks compute in; parameters are float32."""
    evaluate_every: int = 0
    """Steps of retraining between evaluations; 0: at its end alone."""
    evaluate_on: int = 0
    """Examples of each split to evaluate on, the first ones; 0: all."""
    width: int = 0
    """Networks to train at once; 0: as many as the devices hold."""
    keep: bool = False
    """Keep the retrained networks too, their masks and kept weights."""
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

    dataset: Annotated[Prepared, tyro.conf.Positional]
    """Which data set."""
    data_dir: Path
    """Folder to write to."""
    files: Path | None = None
    """Folder that holds the published files; without it TensorFlow Datasets downloads them."""
    accept_mismatch: bool = False
    """Take files whose checksums are not the published ones."""

"""Does it prune better? Scores of pruned networks, before and after a short retraining."""

from __future__ import annotations

import json
import math
import statistics
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.serialization import from_bytes, to_bytes
from flax.traverse_util import flatten_dict

import lap_jax
from experiments.data import Dataset, load
from experiments.files import write_atomically
from experiments.networks import conv6, resnet, vgg
from experiments.networks.charlm import CharLM
from experiments.networks.vit import ViT
from experiments.reporting.rendering import Row, Sheet, markdown
from experiments.running.progress import Tick, progress
from experiments.running.training import Network, Trainer, Training
from experiments.store import made_with, settings_name

TEXT = "the language reference of Python"
CONTEXT = 64
"""Characters of an example of the text."""
STEPS_AHEAD = 20
"""Steps that are given to the devices before the last of them is waited for."""


class Way(NamedTuple):
    """A way to prune.

    Attributes:
      title: in the table.
      method: of `lap_jax.METHODS`.
      graph: what feeds what: as declared in `experiments.networks` (traced, where it is not), the
        main path of the traced network, or all of it.
      changes: to the method.
      measured: fields of `lap_jax.Measured` that are used.
    """

    title: str
    method: str = "LAP"
    graph: Literal["declared", "main path", "traced"] = "traced"
    changes: Mapping[str, Any] = {}
    measured: tuple[str, ...] = ()


WAYS = {
    "MP": Way("MP", "MP", "declared"),
    "Eq5": Way("LAP (Eq. 5), declared chain", graph="declared"),
    "lags-path": Way("LAP, exact lags, main path", graph="main path", changes={"lags": True}),
    "all-path": Way("LAP, horizon all, main path", graph="main path", changes={"horizon": "all"}),
    "LAP": Way("LAP, traced"),
    "lags": Way("LAP, exact lags, traced", changes={"lags": True}),
    "all": Way("LAP, horizon all, traced", changes={"horizon": "all"}),
    "Wanda": Way("Wanda's score", "LBP", measured=("input",)),
    "LAP-act": Way("LAP, activity measured, traced", measured=("active",)),
    "LAP-measured": Way("LAP, all measured, traced", measured=("input", "active", "output")),
}


class Model(NamedTuple):
    """A model of the comparison.

    Attributes:
      build: ``(classes, divisor of the widths) -> module``.
      ways: the rows of its table, of `WAYS`; the first is the one that others are compared with.
      whole: patterns of the names of layers that are not pruned.
      sparsity: fraction removed of each other layer.
      batch_size, learning_rate: of Adam, in training and retraining.
      side: images have so many rows and columns; 0: it reads text.
      chain: its layers, for `lap_jax.chain`.
    """

    build: Callable[[int, int], nn.Module]
    ways: tuple[str, ...]
    whole: tuple[str, ...]
    sparsity: float
    batch_size: int
    learning_rate: float
    side: int = 0
    chain: Sequence[Any] = ()


def _resnet18(classes: int, divisor: int) -> nn.Module:
    return resnet.ResNet18(classes, widths=_narrow((64, 128, 256, 512), divisor))


def _conv6(classes: int, divisor: int) -> nn.Module:
    return conv6.Conv6(
        classes, widths=_narrow((64, 128, 256), divisor), hidden=_narrow((256, 256), divisor)
    )


def _vgg11(classes: int, divisor: int) -> nn.Module:
    return vgg.VGG(vgg.VGG11, classes, widths=_narrow(vgg.WIDTHS, divisor))


def _narrow(widths: Sequence[int], divisor: int) -> tuple[int, ...]:
    return tuple(max(width // divisor, 1) for width in widths)


Name = Literal["resnet18", "conv6", "vgg11", "vit", "charlm"]

CHAIN_WAYS = ("MP", "Eq5", "lags", "all")
TRANSFORMER_WAYS = ("MP", "Wanda", "LAP", "all", "LAP-measured")

MODELS: dict[str, Model] = {
    "resnet18": Model(
        _resnet18,
        ("MP", "Eq5", "lags-path", "LAP", "lags", "all", "Wanda", "LAP-act", "LAP-measured"),
        ("Conv_0", "*shortcut", "Dense_0"), 0.9, 64, 1e-3, 16, resnet.chain(),
    ),
    "conv6": Model(
        _conv6, CHAIN_WAYS, ("Conv_0", "Dense_2"), 0.9, 64, 1e-3, 16, conv6.CHAIN
    ),
    "vgg11": Model(
        _vgg11, CHAIN_WAYS, ("Conv_0", "Dense_0"), 0.9, 64, 1e-3, 32, vgg.chain(vgg.VGG11)
    ),
    # The transformers' widths are those of the classes: they are small already.
    "vit": Model(
        lambda classes, _: ViT(classes), TRANSFORMER_WAYS, ("patches*", "head*"), 0.7, 64, 1e-3, 16
    ),
    "charlm": Model(
        lambda classes, _: CharLM(classes), TRANSFORMER_WAYS, ("embed*", "head*"), 0.7, 32, 1e-3
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Accuracy:
    """Compare ways to prune by what networks score before and after a short retraining."""

    models: tuple[Name, ...] = ("resnet18", "conv6", "vgg11", "vit", "charlm")
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
    """Test images, the first ones; 0: all."""
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
    """Folder for accuracy.md and cells.jsonl; the command goes on with what it finds there."""


@dataclass(frozen=True)
class Cell:
    """One network, pruned in one way: everything that its scores depend on."""

    model: str
    way: str
    seed: int
    data: str
    images: int
    evaluate_on: int
    train_steps: int
    retrain_steps: int
    sparsity: float
    divisor: int
    calibration: int

    @property
    def network(self) -> str:
        """Names the trained network, which all ways of a seed share."""
        settings = asdict(self)
        for later in ("way", "retrain_steps", "sparsity", "calibration"):
            del settings[later]
        return settings_name(settings, {})


@dataclass(frozen=True)
class Score:
    """What came of a cell: accuracies in percent, or bits per character.

    Attributes:
      cell: its settings.
      weights, kept: of the pruned layers.
      trained, pruned, retrained: on the test set, the network as it was, just pruned, and after
        retraining.
      seconds: of wall clock for retraining and evaluation, divided among those done together.
      made_with: versions, device and commit.
    """

    cell: Cell
    weights: int
    kept: int
    trained: float
    pruned: float
    retrained: float
    seconds: float
    made_with: dict[str, str]


def accuracy(command: Accuracy) -> str:
    """Do what is not done, write and return the tables.

    Raises:
      ValueError: for flags that do not fit.
      PruningError: if a model cannot be pruned in a way.
    """
    cells = cells_of(command)
    command.out.mkdir(parents=True, exist_ok=True)
    path = command.out / "cells.jsonl"
    scores = read(path)
    done = {score.cell for score in scores}
    left = [cell for cell in cells if cell not in done]
    steps = len(left) * command.retrain_steps + command.train_steps * len(
        {cell.network for cell in left if not _network_path(command, cell).exists()}
    )
    with progress(steps, "steps") as (tick, say):
        for model in command.models:
            own = [cell for cell in left if cell.model == model]
            if not own:
                continue
            say(f"{model}: {len(own)} to retrain")
            for found in Bench(command, own[0]).run(own, tick):
                scores += found
                write(scores, path)
                for score in found:
                    say(
                        f"{model}, seed {score.cell.seed}, {WAYS[score.cell.way].title}: "
                        f"trained {score.trained:.2f}, pruned {score.pruned:.2f}, "
                        f"retrained {score.retrained:.2f}"
                    )
    wanted = set(cells)
    text = report(command, [score for score in scores if score.cell in wanted])
    write_atomically(command.out / "accuracy.md", text.encode())
    return f"{text}\nwritten to {command.out}"


def cells_of(command: Accuracy) -> list[Cell]:
    """Return the cells of a command, in the order in which they are done.

    Raises:
      ValueError: for flags that do not fit.
    """
    for flag in ("seeds", "train_steps", "retrain_steps", "divisor", "calibration"):
        if getattr(command, flag) < 1:
            raise ValueError(f"--{flag.replace('_', '-')}: expected 1 or more")
    for way in command.ways:
        if way not in WAYS:
            raise ValueError(f"--ways: unknown {way!r}; there are {', '.join(WAYS)}")
    cells = []
    for name in command.models:
        model = MODELS[name]
        for way in command.ways or model.ways:
            cells += [
                Cell(
                    name,
                    way,
                    seed,
                    command.dataset if model.side else TEXT,
                    command.images if model.side else 0,
                    command.evaluate_on if model.side else 0,
                    command.train_steps,
                    command.retrain_steps,
                    model.sparsity if command.sparsity is None else command.sparsity,
                    command.divisor if model.chain else 1,
                    command.calibration if WAYS[way].measured else 0,
                )
                for seed in range(command.seeds)
            ]
    return cells


class Bench:
    """A model with its data and compiled programs.

    Args:
      command: the flags.
      cell: any of the model's.
    """

    def __init__(self, command: Accuracy, cell: Cell) -> None:
        """Load the data; programs compile when they are first needed."""
        self._command = command
        self._model = MODELS[cell.model]
        side = self._model.side
        self._data = images(command, side) if side else text_data()
        # What is traced and measured: text as whole numbers, as an embedding reads it.
        inputs = self._data.train_x[: command.calibration]
        self._examples = jnp.asarray(inputs if side else inputs.astype(np.int32))
        self._module = self._model.build(self._data.classes, cell.divisor)
        self._trainer = Trainer(
            self._apply,
            self._init,
            lambda masks: lap_jax.keep_pruned(optax.adam(self._model.learning_rate), masks),
            (self._data.train_x, self._data.train_y),
            (self._data.test_x, self._data.test_y),
            self._model.batch_size,
        )
        self._graphs: dict[str, lap_jax.Graph] = {}
        self._measured: dict[str, dict[str, lap_jax.Measured]] = {}

    def run(self, cells: Sequence[Cell], tick: Tick) -> Iterator[list[Score]]:
        """Train the networks that are not there, then yield scores of cells done together."""
        networks = {cell.network: cell for cell in cells}
        missing = [
            cell for cell in networks.values() if not _network_path(self._command, cell).exists()
        ]
        for group, lanes in self._groups(missing):
            self._train(group, lanes, tick)
        trained = {name: self._load(cell) for name, cell in networks.items()}
        made = made_with()
        for group, lanes in self._groups(cells):
            begun = time.monotonic()
            starts = [trained[cell.network] for cell in lanes]
            masks = [self._masks(cell, trained[cell.network][0]) for cell in group]
            masks += masks[-1:] * (len(lanes) - len(group))
            training = self._trainer.start(
                _stacked([network for network, _ in starts]), _stacked([tree for tree, *_ in masks])
            )
            before = self._scores(training)
            training = self._advance(
                training, lanes, "retrain", cells[0].retrain_steps, tick, group
            )
            after = self._scores(training)
            seconds = (time.monotonic() - begun) / len(group)
            yield [
                Score(cell, *masks[lane][1:], starts[lane][1], before[lane], after[lane], seconds,
                      made)
                for lane, cell in enumerate(group)
            ]  # fmt: skip

    def _groups(self, cells: Sequence[Cell]) -> Iterator[tuple[list[Cell], list[Cell]]]:
        """Cut cells into those done together; also yield them filled up to the same number."""
        size = min(self._trainer.width, len(cells)) if cells else 1
        for first in range(0, len(cells), size):
            group = list(cells[first : first + size])
            yield group, group + group[-1:] * (size - len(group))

    def _train(self, group: list[Cell], lanes: list[Cell], tick: Tick) -> None:
        network = self._trainer.init(_stacked([_key(cell, "init") for cell in lanes]))
        everything = jax.tree.map(lambda leaf: jnp.ones(len(lanes), bool), network.params)
        training = self._trainer.start(network, everything)
        steps = group[0].train_steps
        training = self._advance(training, lanes, "train", steps, tick, group)
        host, scores = jax.device_get(training.network), self._scores(training)
        for lane, cell in enumerate(group):
            path = _network_path(self._command, cell)
            path.parent.mkdir(exist_ok=True)
            own = jax.tree.map(lambda leaf: leaf[lane], host)  # noqa: B023
            write_atomically(path, to_bytes({"network": own, "score": scores[lane]}))

    def _load(self, cell: Cell) -> tuple[Network, float]:
        """Return a trained network, on the default device, and its score."""
        shapes = jax.eval_shape(self._init, jax.random.key(0))
        like = {"network": jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes), "score": 0.0}
        found = from_bytes(like, _network_path(self._command, cell).read_bytes())
        return jax.tree.map(jnp.asarray, found["network"]), float(found["score"])

    def _advance(
        self, training: Training, lanes: list[Cell], purpose: str, steps: int, tick: Tick,
        group: list[Cell],
    ) -> Training:  # fmt: skip
        keys = _stacked([_key(cell, purpose) for cell in lanes])
        for step in range(steps):
            training = self._trainer.advance(training, keys, step, 1)
            if (step + 1) % STEPS_AHEAD == 0 or step + 1 == steps:
                jax.block_until_ready(training)
            tick(len(group))
        return training

    def _scores(self, training: Training) -> list[float]:
        errors = self._trainer.errors(training, "test")
        if self._model.side:
            return [100 * (1 - float(error)) for error in errors.error]
        return [float(loss) / CONTEXT / math.log(2) for loss in errors.loss]

    def _masks(self, cell: Cell, network: Network) -> tuple[Any, int, int]:
        """Return masks of the parameters' shapes; the numbers of weights and of those kept."""
        way, variables = WAYS[cell.way], _variables(network)
        graph = self._graph(way, variables)
        levels = {layer.name: self._level(cell, layer.name) for layer in graph.prunable}
        options: dict[str, Any] = {}
        if way.measured:
            if cell.network not in self._measured:
                self._measured[cell.network] = lap_jax.measure(
                    self._module.apply, variables, self._examples, graph=graph, train=False
                )
            unused = {
                field: None for field in lap_jax.Measured._fields if field not in way.measured
            }
            measured = {
                name: each._replace(**unused) for name, each in self._measured[cell.network].items()
            }
            options["measured"] = measured
        masks = lap_jax.lookahead_masks(
            network.params,
            graph,
            levels,
            method=lap_jax.METHODS[way.method]._replace(**way.changes),
            batch_stats=network.batch_stats,
            **options,
        )
        by_path = flatten_dict(masks, sep="/")
        pruned = [by_path[graph[name].path] for name, level in levels.items() if level]
        full = jax.tree.map(
            lambda mask, leaf: jnp.broadcast_to(mask, leaf.shape), masks, network.params
        )
        return full, sum(mask.size for mask in pruned), sum(int(mask.sum()) for mask in pruned)

    def _level(self, cell: Cell, name: str) -> float:
        whole = any(fnmatchcase(name, pattern) for pattern in self._model.whole)
        return 0.0 if whole else cell.sparsity

    def _graph(self, way: Way, variables: Any) -> lap_jax.Graph:
        """Return what feeds what; the same for all seeds."""
        if way.graph not in self._graphs:
            if way.graph == "declared" and self._model.chain:
                graph = lap_jax.chain(
                    variables["params"], self._model.chain, variables.get("batch_stats")
                )
            else:
                graph = lap_jax.trace(
                    self._module.apply, variables, self._examples[:1], train=False
                )
                if way.graph == "main path":
                    graph = graph.main_path()
            self._graphs[way.graph] = graph
        return self._graphs[way.graph]

    def _init(self, key: jax.Array) -> Network:
        variables = self._module.init(key, jnp.zeros((1, *self._data.train_x.shape[1:])))
        return Network(variables["params"], variables.get("batch_stats", {}))

    def _apply(self, network: Network, inputs: jax.Array, train: bool) -> tuple[Any, Any]:
        variables = {"params": network.params, "batch_stats": network.batch_stats}
        if not train:
            return self._module.apply(variables, inputs, train=False), network.batch_stats
        logits, changed = self._module.apply(variables, inputs, train=True, mutable=["batch_stats"])
        return logits, changed.get("batch_stats", {})


def images(command: Accuracy, side: int) -> Dataset:
    """Return the data set's first images, resized to ``side x side``."""
    data = load(command.dataset, command.data_dir)
    train, test = slice(command.images or None), slice(command.evaluate_on or None)

    def resized(x: np.ndarray) -> np.ndarray:
        shape = (len(x), side, side, x.shape[-1])
        return np.asarray(jax.image.resize(x, shape, "linear")) if x.shape != shape else x

    return data._replace(
        train_x=resized(data.train_x[train]), train_y=data.train_y[train],
        test_x=resized(data.test_x[test]), test_y=data.test_y[test],
    )  # fmt: skip


def text_data() -> Dataset:
    """Return Python's language reference (`pydoc_data.topics`) in ASCII, its last tenth the test.

    An example is `CONTEXT` characters and, as labels, those that follow each. Training examples
    start every quarter of that, test examples cover the end once.
    """
    from pydoc_data.topics import topics

    text = "\n".join(topics.values()).encode("ascii", "replace")
    characters = np.frombuffer(text, np.uint8)
    cut = len(characters) * 9 // 10

    def examples(part: np.ndarray, every: int) -> tuple[np.ndarray, np.ndarray]:
        windows = np.lib.stride_tricks.sliding_window_view(part, CONTEXT + 1)[::every]
        return windows[:, :-1].astype(np.float32), windows[:, 1:].astype(np.int32)

    train = examples(characters[:cut], CONTEXT // 4)
    return Dataset(TEXT, *train, *examples(characters[cut:], CONTEXT), classes=128)


def read(path: Path) -> list[Score]:
    """Return the scores of a file, if it is there.

    Raises:
      ValueError: if it was written by another version.
    """
    if not path.exists():
        return []
    try:
        return [
            Score(**{**row, "cell": Cell(**row["cell"])})
            for row in map(json.loads, path.read_text().splitlines())
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not of this version ({error}): name another --out") from None


def write(scores: Sequence[Score], path: Path) -> None:
    """Write one line per score; whoever dies here leaves the file as it was."""
    write_atomically(path, "".join(json.dumps(asdict(s)) + "\n" for s in scores).encode())


def report(command: Accuracy, scores: Sequence[Score]) -> str:
    """Return Markdown: what was run on what, and a table per model."""
    from experiments.benchmarks.masks import hardware

    minutes = sum(score.seconds for score in scores) / 60
    parts = [
        f"    {command_line(command)}",
        f"{hardware()}; {minutes:.0f} minutes of pruning, retraining and evaluation. Mean ± sample "
        f"standard deviation of {command.seeds} networks, trained for {command.train_steps:,} and "
        f"retrained for {command.retrain_steps:,} steps of Adam, with no augmentation. The batches "
        "of retraining are the same for all rows of a network; the last column is the difference "
        "between two rows of the same network. “Measured” on "
        f"{command.calibration} training examples. Wanda's score is compared within a layer here, "
        "as all others are.",
    ]
    for name in command.models:
        own = [score for score in scores if score.cell.model == name]
        if own:
            parts += [describe(own), markdown(sheet(own))]
    return "\n\n".join(parts) + "\n"


def describe(scores: Sequence[Score]) -> str:
    """Return what a table's networks are, in two sentences."""
    score = scores[0]
    cell, model = score.cell, MODELS[score.cell.model]
    narrow = f" with {_ordinal(cell.divisor)} of the channels" if cell.divisor > 1 else ""
    data = f"{cell.data} at {model.side}x{model.side}" if model.side else cell.data
    trained = {each.cell.seed: each.trained for each in scores}
    return (
        f"**{cell.model}**{narrow} on {data}, {_unit(score)}; batches of {model.batch_size}. "
        f"{score.kept:,} of {score.weights:,} weights are kept, "
        f"{1 - cell.sparsity:.3g} of each layer but {', '.join(model.whole)}; "
        f"unpruned {_spread(list(trained.values()))}."
    )


def sheet(scores: Sequence[Score]) -> Sheet:
    """Return a table: a row per way, the first of them what the last column compares with."""
    by_way: dict[str, dict[int, Score]] = {}
    for score in scores:
        by_way.setdefault(score.cell.way, {})[score.cell.seed] = score
    first, *_ = (way for way in WAYS if way in by_way)
    rows = []
    for way in (way for way in WAYS if way in by_way):
        own = by_way[way]
        gains = [
            own[seed].retrained - base.retrained
            for seed, base in by_way[first].items()
            if seed in own
        ]
        rows.append(
            Row(
                WAYS[way].title,
                (
                    _spread([score.pruned for score in own.values()]),
                    _spread([score.retrained for score in own.values()]),
                    "" if way == first or not gains else _spread(gains, sign="+"),
                ),
            )
        )
    heads = ("pruned", "retrained", f"less {WAYS[first].title}'s")
    return Sheet(_unit(scores[0]), heads, tuple(rows))


def command_line(command: Accuracy) -> str:
    """Return the command, with DIR for the folder of the data and without --out."""
    words = ["python -m experiments.benchmarks accuracy"]
    for field in fields(command):
        value = getattr(command, field.name)
        if value == field.default or field.name == "out":
            continue
        said = "DIR" if field.name == "data_dir" else value
        said = " ".join(map(str, said)) if isinstance(said, tuple) else said
        words.append(f"--{field.name.replace('_', '-')} {said}")
    return " ".join(words)


def _unit(score: Score) -> str:
    return "accuracy in percent" if MODELS[score.cell.model].side else "bits per character"


def _ordinal(number: int) -> str:
    return {2: "a half", 4: "a quarter", 8: "an eighth"}.get(number, f"1/{number}")


def _spread(values: Sequence[float], sign: str = "") -> str:
    """Write a mean with the sample standard deviation, if there are several."""
    mean = f"{statistics.fmean(values):{sign}.2f}"
    return mean + (f"±{statistics.stdev(values):.2f}" if len(values) > 1 else "")


def _variables(network: Network) -> dict[str, Any]:
    stats = {"batch_stats": network.batch_stats} if network.batch_stats else {}
    return {"params": network.params, **stats}


def _network_path(command: Accuracy, cell: Cell) -> Path:
    return command.out / "networks" / f"{cell.network}.msgpack"


def _key(cell: Cell, purpose: str) -> jax.Array:
    """Return the key of a seed for a purpose: the same for all ways."""
    return jax.random.fold_in(jax.random.key(cell.seed), zlib.crc32(purpose.encode()))


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

"""Time of a step of retraining: the masked network beside what `lap_jax.shrink` leaves of it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lap_jax
from experiments.data import load
from experiments.data.source import Dataset
from experiments.files import write_atomically
from experiments.networks import MODELS
from experiments.running.pruning import masks_of, module_of
from experiments.running.training import Network
from experiments.trial import Trial


@dataclass(frozen=True)
class Retraining:
    """Time retraining of masked networks and of the small ones that train exactly as they do."""

    data_dir: Path | None = None
    """Folder of prepared data sets."""
    methods: tuple[str, ...] = ("MP", "LAP", "LAP-backward-seq")
    """Ways to prune, each as it is and with effective masks."""
    levels: tuple[int, ...] = ()
    """Levels of sparsity; by default the paper's."""
    train_steps: int = 2000
    """Steps of Adam before pruning: of random weights other neurons die."""
    batch: int = 60
    """Examples a step."""
    divisor: int = 1
    """Divides the network's widths."""
    steps: int = 5
    """Steps of each network in a round."""
    rounds: int = 15
    """Rounds; in each, the masked network and the small one have their turns."""
    out: Path = Path("results/benchmark-retraining")
    """Folder for retraining.md and retraining.json; rows that are there stay."""


@dataclass(frozen=True)
class Row:
    """A pruned network.

    Attributes:
      way, kept: how it was pruned, and the share of weights that stays.
      parameters, work: of the small network over those of the large one; work in multiply-adds of
        the forward pass.
      masked: milliseconds of a step of the masked network, the median.
      ratios: its time over that of the small one, round by round.
    """

    way: str
    kept: float
    parameters: float
    work: float
    masked: float
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.ratios)


Step = Callable[..., tuple[Any, Any]]
"""``(params, state, images, labels) -> (params, state)``."""


def retraining(command: Retraining) -> str:
    """Time every network, write and return the table.

    Raises:
      ValueError: if there are no rounds, or no steps.
    """
    for name in ("steps", "rounds", "train_steps", "batch", "divisor"):
        if getattr(command, name) < 1:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} is {getattr(command, name)}: expected 1 or more")
    setting = MODELS["fcn"]
    dataset = load(setting.dataset, command.data_dir)
    first = Trial("fcn", setting.activation, setting.dataset, "MP", 1, 0, command.train_steps, 1,
                  command.batch, setting.learning_rate, divisor=command.divisor)  # fmt: skip
    module = module_of(first, dataset.classes)
    params = trained(module, dataset, first)
    command.out.mkdir(parents=True, exist_ok=True)
    path = command.out / "retraining.json"
    done: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for trial in trials(command, first):
        if trial.name not in done:
            masks = masks_of(trial, Network(params, {}), dataset)
            row = timed(command, module, params, masks, dataset, trial)
            done[trial.name] = asdict(row)
            write_atomically(path, json.dumps(done, indent=1).encode())
            print(f"{row.way} at {row.kept:.2%}: {row.ratio:.1f} times as fast", flush=True)
    rows = [Row(**{**done[trial.name], "ratios": tuple(done[trial.name]["ratios"])})
            for trial in trials(command, first)]  # fmt: skip
    text = table(command, rows)
    write_atomically(command.out / "retraining.md", text.encode())
    return text


def trials(command: Retraining, first: Trial) -> list[Trial]:
    """Return what is pruned: every way at every level."""
    return [
        replace(first, method=method, tau=level, effective=effective)
        for method in command.methods
        for effective in (False, True)
        for level in command.levels or MODELS[first.model].taus
    ]


def trained(module: Any, dataset: Dataset, trial: Trial) -> Any:
    """Return parameters after some steps of Adam."""
    params = module.init(jax.random.key(trial.seed), jnp.asarray(dataset.train_x[:1]))["params"]
    optimizer = optax.adam(trial.learning_rate)
    step = stepping(module.apply, optimizer)
    state = optimizer.init(params)
    variables = {"params": params}
    for images, labels in batches(dataset, trial.train_steps, trial.batch_size):
        variables, state = step(variables, state, images, labels)
    return variables["params"]


def batches(dataset: Dataset, steps: int, size: int) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Give random batches of the training set."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        own = rng.integers(0, len(dataset.train_y), size)
        images = jnp.asarray(dataset.train_x[own], jnp.float32)
        yield images, jnp.asarray(dataset.train_y[own])


def stepping(apply: Callable[..., Any], optimizer: Any) -> Step:
    """Return a jitted step of training."""

    def loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits = apply({"params": params}, images)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    def step(variables: Any, state: Any, images: jax.Array, labels: jax.Array) -> Any:
        grads = jax.grad(loss)(variables["params"], images, labels)
        updates, state = optimizer.update(grads, state, variables["params"])
        return {"params": optax.apply_updates(variables["params"], updates)}, state

    return jax.jit(step)


def timed(
    command: Retraining, module: Any, params: Any, masks: Any, dataset: Dataset, trial: Trial
) -> Row:
    """Time a pruned network and what is left of it, in turn."""
    inner = optax.adam(trial.learning_rate)
    optimizer = lap_jax.keep_pruned(inner, masks)
    (batch,) = batches(dataset, 1, command.batch)
    variables = {"params": lap_jax.apply_masks(params, masks)}
    own = {"params": masks}
    small = lap_jax.shrink(module, {"params": params}, own, batch[0], fold=False)
    state = optimizer.init(variables["params"])
    networks = {
        "masked": (stepping(module.apply, optimizer), variables, state),
        "small": (stepping(small.apply, optimizer), small.variables, small.slice(state)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for step, *start in networks.values():
        jax.block_until_ready(step(*start, *batch))
    for _ in range(command.rounds):
        for name, (step, *start) in networks.items():
            now: Any = start
            begin = time.perf_counter()
            for _ in range(command.steps):
                now = step(*now, *batch)
            jax.block_until_ready(now)
            seconds[name].append((time.perf_counter() - begin) / command.steps)
    before, after = small.parameters
    kernels = [leaf for leaf in jax.tree.leaves(masks) if leaf.ndim > 1]
    kept = sum(int(leaf.sum()) for leaf in kernels) / sum(leaf.size for leaf in kernels)
    pairs = zip(seconds["masked"], seconds["small"], strict=True)
    return Row(
        trial.way, kept, after / before, small.work.after / small.work.before,
        1e3 * statistics.median(seconds["masked"]), tuple(one / other for one, other in pairs),
    )  # fmt: skip


def table(command: Retraining, rows: Sequence[Row]) -> str:
    """Return the table as Markdown."""
    from experiments.benchmarks.masks import hardware

    lines = [
        "# Retraining what is left",
        "",
        f"A step of retraining (Adam under `keep_pruned`, batch {command.batch}) of the FCN on "
        f"MNIST, trained for {command.train_steps:,} steps and pruned: the masked network's time "
        "over that of `shrink(..., fold=False)`, which trains exactly as it does. Median and range "
        f"of {command.rounds} rounds of {command.steps} steps, both in turn in one run, on a "
        "machine that had other work as well: ratios are to be read, not milliseconds. Parameters "
        "and multiply-adds: what is left of the network.",
        "",
        hardware(),
        "",
        "| | kept | parameters | multiply-adds | masked, ms a step | times as fast | range |",
        "|---|" + "---:|" * 6,
    ]
    for row in rows:
        low, high = min(row.ratios), max(row.ratios)
        lines.append(
            f"| {row.way} | {row.kept:.2%} | {row.parameters:.1%} | {row.work:.1%} "
            f"| {row.masked:.1f} | {row.ratio:.1f} | {low:.1f}-{high:.1f} |"
        )
    return "\n".join(lines) + "\n"

"""What is left of a sweep's networks once they are shrunk: errors, sizes, bytes and latency."""

from __future__ import annotations

import io
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

import lap_jax
from experiments.data import load
from experiments.data.source import Dataset
from experiments.files import write_atomically
from experiments.reporting.figures import Style, legend_below, styles_of
from experiments.running.pruning import masks_of, module_of, variables_of
from experiments.running.sweep import Sweep, load_network, network_path, pruned_path
from experiments.running.trials import trainer_for
from experiments.store import Result, ResultsError, Store
from experiments.trial import UNPRUNED, Trial

DENSE = "dense, from scratch"


@dataclass(frozen=True)
class Shrink:
    """Shrink the networks of a finished sweep; train dense ones of the same widths beside them."""

    results: Path
    """Folder of the sweep, with the trained networks."""
    data_dir: Path | None = None
    """Folder of prepared data sets."""
    batches: tuple[int, ...] = (1, 60, 1000)
    """Examples at once, of which the latency is measured."""
    seeds: int = 0
    """Networks of so many seeds, the first ones; 0: of all."""
    rounds: int = 21
    """Calls of each network, all in turn."""
    multiple_of: int = 1
    """Dead neurons stay until widths are multiples of it, as in `lap_jax.shrink`."""
    ways: tuple[str, ...] = ()
    """Ways to prune to look at; all of the sweep without any."""
    control: tuple[str, ...] = ("LAP-backward-seq",)
    """Ways whose widths dense networks are trained from scratch with, for as long."""
    out: Path = Path("results/benchmark-shrink")
    """Folder for shrink.md, shrink.json and the pictures; rows that are there stay."""


@dataclass(frozen=True)
class Row:
    """A network: how it was pruned, and what is left of it.

    Attributes:
      way, kept: the way of pruning, and the share of weights that stays.
      seed: of the network.
      error: on the test set after retraining.
      small_error: of the small network, where the sweep kept what it retrained.
      effective: effective weights over kept ones.
      widths: neurons that are left of each hidden layer, where the network has such.
      parameters, large: numbers in the small network, and in the dense one.
      multiply_adds: of the small network over those of the dense one, per example.
      bytes_dense, bytes_masked, bytes_small: of the files of the dense network, of masks and kept
        weights, and of the small network in its dense arrays.
    """

    way: str
    kept: float
    seed: int
    error: float
    small_error: float | None
    effective: float | None
    widths: tuple[int, ...]
    parameters: int
    large: int
    multiply_adds: float
    bytes_dense: int
    bytes_masked: int
    bytes_small: int


def shrink(command: Shrink) -> str:
    """Measure every network of the folder; write and return the table.

    Raises:
      ResultsError: if the folder holds no finished trials, or not their trained networks.
    """
    results = [
        result
        for result in Store(command.results).load()
        if result.trial.method != UNPRUNED
        and (not command.ways or result.trial.way in command.ways)
        and (not command.seeds or result.trial.seed < command.seeds)
    ]
    if not results:
        wanted = f" of {', '.join(command.ways)}" if command.ways else ""
        raise ResultsError(
            f"{command.results} holds no pruned networks{wanted}: name a sweep's folder"
        )
    ways = list(dict.fromkeys(result.trial.way for result in results))
    results.sort(key=lambda result: (ways.index(result.trial.way), -result.kept))
    first = results[0].trial
    dataset = load(first.dataset, command.data_dir, first.train_on, first.side)
    rows = _rows(command, results, dataset)
    rows += _controls(command, results, rows, dataset)
    latency = _latency(command, results, dataset)
    text = f"{table(rows, latency, command, first)}\n{sentence(rows, latency)}\n"
    write_atomically(command.out / "shrink.md", text.encode())
    for suffix in ("png", "svg"):
        content = io.BytesIO()
        figure(rows, latency, styles_of(results)).savefig(content, format=suffix, dpi=150)
        write_atomically(command.out / f"shrink.{suffix}", content.getvalue())
    return text


# ---------------------------------------------------------------- sizes


def _rows(command: Shrink, results: Sequence[Result], dataset: Dataset) -> list[Row]:
    """Return a row per result; those that were made before are read."""
    command.out.mkdir(parents=True, exist_ok=True)
    path = command.out / "shrink.json"
    done: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for number, result in enumerate(results):
        name = _name(command, result)
        if name not in done:
            done[name] = asdict(_row(command, result, dataset))
            write_atomically(path, json.dumps(done, indent=1).encode())
            print(
                f"{number + 1} of {len(results)}: {result.trial.way} at {result.left}", flush=True
            )
    return [_read(done[_name(command, result)]) for result in results]


def _name(command: Shrink, result: Result) -> str:
    own = result.trial.name
    return own if command.multiple_of == 1 else f"{own}, multiples of {command.multiple_of}"


def _read(row: dict[str, Any]) -> Row:
    return Row(**{**row, "widths": tuple(row["widths"])})


def _row(command: Shrink, result: Result, dataset: Dataset) -> Row:
    trial = result.trial
    variables, masks, small, retrained = _shrunk(command, trial, dataset)
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place) / name for name in ("dense", "masked", "small")]
        lap_jax.save_pruned(files[0], variables)
        lap_jax.save_pruned(files[1], lap_jax.apply_masks(variables, masks), masks)
        lap_jax.save_pruned(files[2], small.variables)
        sizes = [file.stat().st_size for file in files]
    large, parameters = small.parameters
    work = small.work.after / max(small.work.before, 1)
    return Row(
        trial.way, result.kept, trial.seed, result.retrained.test_error,
        _error(small, dataset) if retrained else None, result.effective,
        _widths(trial, dataset, small.variables["params"]), parameters, large, work, *sizes,
    )  # fmt: skip


def _shrunk(
    command: Shrink, trial: Trial, dataset: Dataset
) -> tuple[Any, Any, lap_jax.Small, bool]:  # fmt: skip
    """Return the variables of a trial's network, its masks, what is left, and if it is retrained.

    Where the sweep did not keep what it retrained, it is the trained network, pruned again.
    """
    folder, multiple_of = command.results, command.multiple_of
    path = network_path(folder, trial)
    shapes = trainer_for(trial, dataset).shapes
    kept = pruned_path(folder, trial)
    if kept.exists():
        variables, masks = lap_jax.load_pruned(kept, variables_of(shapes))
        small = _small(trial, dataset, variables, masks, multiple_of)
        return variables, masks, small, True
    try:
        network, _ = load_network(path, shapes)
    except FileNotFoundError:
        raise ResultsError(
            f"{path} is not there: the sweep's trained networks are needed, which its folder keeps "
            "where it was run"
        ) from None
    masks = masks_of(trial, network, dataset)
    variables = variables_of(network)
    return variables, masks, _small(trial, dataset, variables, masks, multiple_of), False


def _small(
    trial: Trial, dataset: Dataset, variables: Any, masks: Any, multiple_of: int
) -> lap_jax.Small:
    module, examples = module_of(trial, dataset.classes), _examples(dataset, 60)
    return lap_jax.shrink(module, variables, masks, examples, multiple_of=multiple_of, train=False)


def _error(small: lap_jax.Small, dataset: Dataset) -> float:
    """Return the share of wrong answers on the test set."""
    call, count, wrong = jax.jit(small.apply), len(dataset.test_y), 0
    size = math.gcd(count, 1000)
    for start in range(0, count, size):
        images = jnp.asarray(dataset.test_x[start : start + size], jnp.float32)
        answers = np.asarray(call(small.variables, images)).argmax(-1)
        wrong += int((answers != dataset.test_y[start : start + size]).sum())
    return wrong / dataset.test_y.size


def _examples(dataset: Dataset, count: int) -> jax.Array:
    images = np.resize(dataset.test_x, (count, *dataset.test_x.shape[1:]))
    return jnp.asarray(images, jnp.int32 if dataset.is_text else jnp.float32)


def _widths(trial: Trial, dataset: Dataset, params: Any) -> tuple[int, ...]:
    """Return the widths of hidden layers, where a dense network can have the same."""
    module = module_of(trial, dataset.classes)
    return module.widths_in(params) if hasattr(module, "widths_in") else ()


# ---------------------------------------------------------------- dense networks of those widths


def _controls(
    command: Shrink, results: Sequence[Result], rows: Sequence[Row], dataset: Dataset
) -> list[Row]:
    """Train dense networks of the small widths for as long as the pruned ones."""
    wanted = {
        replace(
            result.trial, method=UNPRUNED, tau=0, sparsity=0.0, effective=False, shrunk=False,
            graph="declared", horizon=1, lags=False, measured="", schedule="one-shot", cycles=1,
            scope="", repair="", rates="", steps=0, widths=",".join(map(str, row.widths)),
        ): None
        for result, row in zip(results, rows, strict=True)
        if row.way in command.control and row.widths and min(row.widths)
    }  # fmt: skip
    if not wanted:
        return []
    whole = _work(replace(results[0].trial, widths=""), dataset)
    found = []
    for trial in wanted:
        store = Store(command.out / "dense" / trial.widths.replace(",", "-"))
        Sweep([trial], dataset, store).run(lambda steps: None, print)
        (result,) = (each for each in store.load() if each.trial == trial)
        shapes = jax.tree.leaves(trainer_for(trial, dataset).shapes)
        parameters = sum(math.prod(leaf.shape) for leaf in shapes)
        error, size = result.retrained.test_error, 4 * parameters
        widths = tuple(map(int, trial.widths.split(",")))
        share = _work(trial, dataset) / whole
        found.append(
            Row(DENSE, 1.0, trial.seed, error, error, None, widths, parameters, rows[0].large,
                share, size, size, size)
        )  # fmt: skip
    return found


def _work(trial: Trial, dataset: Dataset) -> int:
    """Return the multiply-adds of a dense network on 60 examples."""
    module, examples = module_of(trial, dataset.classes), _examples(dataset, 60)
    variables = module.init(jax.random.key(0), examples[:1], train=False)
    return lap_jax.shrink(module, variables, None, examples, train=False).work.before


# ---------------------------------------------------------------- latency


Latency = dict[tuple[str, float], dict[int, float]]
"""Of a way at a share of weights, per batch size: the dense network's time over the small one's."""


def _latency(command: Shrink, results: Sequence[Result], dataset: Dataset) -> Latency:
    """Time the first seed's networks, all in turn, in one run."""
    seed = min(result.trial.seed for result in results)
    calls: dict[tuple[str, float] | None, tuple[Callable[..., Any], Any]] = {}
    for result in results:
        if result.trial.seed != seed:
            continue
        variables, _, small, _ = _shrunk(command, result.trial, dataset)
        module = module_of(result.trial, dataset.classes)
        calls.setdefault(None, (jax.jit(module.apply), variables))
        calls[result.trial.way, result.kept] = jax.jit(small.apply), small.variables
    found: Latency = {key: {} for key in calls if key is not None}
    for batch in command.batches:
        x = _examples(dataset, batch)
        seconds = timed({key: (call, v, x) for key, (call, v) in calls.items()}, command.rounds)
        for key, own in found.items():
            own[batch] = seconds[None] / seconds[key]
    return found


def timed(calls: dict[Any, tuple[Callable[..., Any], Any, Any]], rounds: int) -> dict[Any, float]:
    """Return the median seconds of each call, all in turn; short ones are repeated in a round."""
    repeats = {}
    for key, (call, *arguments) in calls.items():
        jax.block_until_ready(call(*arguments))
        start = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        repeats[key] = max(1, min(200, round(2e-3 / max(time.perf_counter() - start, 1e-6))))
    taken: dict[Any, list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, (call, *arguments) in calls.items():
            start = time.perf_counter()
            for _ in range(repeats[key]):
                out = call(*arguments)
            jax.block_until_ready(out)
            taken[key].append((time.perf_counter() - start) / repeats[key])
    return {key: statistics.median(each) for key, each in taken.items()}


# ---------------------------------------------------------------- what is shown


def grouped(rows: Sequence[Row]) -> dict[tuple[str, float, tuple[int, ...]], list[Row]]:
    """Return rows of several seeds together, by way and share of weights, or by widths."""
    found: dict[tuple[str, float, tuple[int, ...]], list[Row]] = {}
    for row in rows:
        # Dense networks are told apart by their widths, which each seed has of its own.
        found.setdefault((row.way, row.kept, row.widths if row.way == DENSE else ()), []).append(
            row
        )
    return found


def mean(rows: Sequence[Row], number: Callable[[Row], float]) -> float:
    """Return the mean over seeds."""
    return statistics.fmean(map(number, rows))


def table(rows: Sequence[Row], latency: Latency, command: Shrink, trial: Trial) -> str:
    """Return the table as Markdown."""
    batches = "".join(f" | speed at {batch:,}" for batch in command.batches)
    even = f", widths filled up to multiples of {command.multiple_of}"
    lines = [
        f"# {trial.model} on {trial.dataset}: networks that are really smaller",
        "",
        f"{trial.train_steps:,} steps of training and {trial.retrain_steps:,} of retraining; means "
        "over seeds, errors ± one standard deviation. Parameters, multiply-adds and latency are "
        "those of the network that `lap_jax.shrink` leaves, folded"
        f"{even if command.multiple_of > 1 else ''}, as times less than the dense "
        f"one's ({rows[0].large:,} parameters); latency of one seed's networks, medians of "
        f"{command.rounds} calls in turn on {jax.devices()[0].device_kind}, JAX {jax.__version__}. "
        "On disk: masks and kept weights (`save_pruned`), and the small dense arrays.",
        "",
        "| | kept | seeds | error, % | of the small, % | effective | parameters | times fewer | "
        f"multiply-adds, times fewer | masked, kB | small, kB{batches} |",
        "|---|" + "---:|" * (10 + len(command.batches)),
    ]  # fmt: skip
    for (way, kept, widths), own in grouped(rows).items():
        errors = [100 * row.error for row in own]
        spread = f" ± {statistics.stdev(errors):.2f}" if len(own) > 1 else ""
        small = [row.small_error for row in own if row.small_error is not None]
        effective = [row.effective for row in own if row.effective is not None]
        parameters = mean(own, lambda row: row.parameters)
        speeds = latency.get((way, kept), {})
        cells = [
            f"{way} ({'-'.join(map(str, widths))})" if widths else way,
            f"{kept:.2%}",
            f"{len(own)}",
            f"{statistics.fmean(errors):.2f}{spread}",
            f"{100 * statistics.fmean(small):.2f}" if small else "",
            f"{statistics.fmean(effective):.1%}" if effective else "",
            f"{parameters:,.0f}",
            f"{own[0].large / max(parameters, 1):.1f}",
            f"{1 / max(mean(own, lambda row: row.multiply_adds), 1e-9):.1f}",
            f"{mean(own, lambda row: row.bytes_masked) / 1e3:,.1f}",
            f"{mean(own, lambda row: row.bytes_small) / 1e3:,.1f}",
            *(f"{speeds[batch]:.1f}" if batch in speeds else "" for batch in command.batches),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def sentence(rows: Sequence[Row], latency: Latency) -> str:
    """Return one sentence: the smallest network that errs little more than the best of the table.

    Little is two points. Beside it stands the first way of the table at that share of weights.
    """
    lines = {key: own for key, own in grouped(rows).items() if key[0] != DENSE}
    errors = {key: mean(own, lambda row: row.error) for key, own in lines.items()}
    near = {key for key, error in errors.items() if error <= min(errors.values()) + 0.02}
    best = min(near, key=lambda key: mean(lines[key], lambda row: row.parameters))
    others = [key for key in lines if key[1] == best[1] and key != best]
    told = [_told(lines[key], latency.get(key[:2], {})) for key in [best, *others[:1]]]
    small = [row.small_error for row in lines[best] if row.small_error is not None]
    same = f", {statistics.fmean(small):.2%} once it is shrunk" if small else ""
    beside = f" ({others[0][0]} with as many weights: {told[1]})" if others else ""
    return (
        f"{best[0]} at {best[1]:.2%} of the weights errs {errors[best]:.2%}{same}, with "
        f"{told[0]} than the dense network{beside}."
    )


def _told(rows: list[Row], speeds: dict[int, float]) -> str:
    fewer = rows[0].large / max(mean(rows, lambda row: row.parameters), 1)
    fast = {batch: f"{speed:.1f} times faster at batch {batch}" for batch, speed in speeds.items()}
    words = [f"{fewer:.1f} times fewer parameters", *([fast[60]] if 60 in fast else [])]
    return " and ".join(words)


def figure(rows: Sequence[Row], latency: Latency, styles: Mapping[str, Style]) -> Figure:
    """Draw error against weights on disk, against dense size, and against time."""
    numbers: dict[str, Callable[[list[Row]], float | None]] = {
        "kilobytes on disk, masks and kept weights": lambda own: mean(
            own, lambda row: row.bytes_masked / 1e3
        ),
        "parameters of the small dense arrays": lambda own: mean(own, lambda row: row.parameters),
    }
    batches = sorted({batch for speeds in latency.values() for batch in speeds})
    if batches:
        batch = 60 if 60 in batches else batches[0]
        numbers[f"time at batch {batch}, of the dense network's"] = lambda own: (
            1 / latency[own[0].way, own[0].kept][batch]
            if (own[0].way, own[0].kept) in latency
            else None
        )
    ways = list(dict.fromkeys(row.way for row in rows))
    drawn = Figure(figsize=(5 * len(numbers), 4.2), layout="constrained")
    for place, (label, number) in enumerate(numbers.items()):
        axes = drawn.add_subplot(1, len(numbers), place + 1)
        for way in ways:
            lines = sorted(
                (item for item in grouped(rows).items() if item[0][0] == way),
                key=lambda item: item[0][1],  # by the share of weights kept
            )
            points = [(number(own), 100 * mean(own, lambda row: row.error)) for _, own in lines]
            found = [(x, y) for x, y in points if x is not None]
            if found:
                style = styles.get(way)
                axes.plot(
                    *zip(*found, strict=True), label=way,
                    color=style.colour if style else "black", marker=style.marker if style else ".",
                    linestyle=style.line if style else "none", markersize=4,
                )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="test error, %")
        for axis in (axes.xaxis, axes.yaxis):
            least, most = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if most < 100 * least else (1,)))
            axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.10g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    legend_below(drawn, drawn.axes[0])
    return drawn

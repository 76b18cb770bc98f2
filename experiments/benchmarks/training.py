"""Speed of retraining: many networks in one program, against one at a time and PyTorch."""

from __future__ import annotations

import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lap_jax
from experiments.files import write_atomically
from experiments.running.training import Trainer
from experiments.running.training import Training as Networks
from experiments.trial import Trial

SPARSITY = 0.9837


@dataclass(frozen=True)
class Training:
    """Time retraining of the FCN: ours, a Python loop, and PyTorch where it is installed."""

    steps: int = 200
    """Steps of each network per round."""
    rounds: int = 9
    """Rounds; in each, every entry has its turn."""
    width: int = 0
    """Networks at once in our program; 0: as many as the sweep would take."""
    out: Path = Path("results/benchmark-training")
    """Folder for training.md and training.json."""


class Row(NamedTuple):
    """Seconds per step of one network, in each round; and of the first round, which compiles."""

    name: str
    seconds: tuple[float, ...]
    first: float

    @property
    def median(self) -> float:
        """Median seconds per step of one network."""
        return statistics.median(self.seconds)


Call = Callable[[int], int]
"""``steps -> number of networks`` that were trained for so many steps."""


def flops_per_step(widths: list[int], batch: int) -> int:
    """Return multiplications and additions of a step's matrix products.

    Forward, gradient of the weights, and gradient of the inputs of all layers but the first.
    """
    sizes = [a * b for a, b in itertools.pairwise(widths)]
    return 2 * batch * (3 * sum(sizes) - sizes[0])


def measure(command: Training) -> tuple[list[Row], dict[str, float]]:
    """Time every entry in turn; return the rows and the machine's measured peaks in FLOP/s."""
    from experiments.running.trials import trainer_for

    dataset = _data()
    trial = Trial("fcn", "relu", "mnist", "LAP", 6, 0, 0, 0, 60, 1.2e-3)
    many = trainer_for(trial, dataset)
    alone = trainer_for(trial, dataset, [jax.devices()[0]])
    width = command.width or many.width
    entries: dict[str, Call] = {
        f"ours, {width} networks": _ours(many, width),
        "ours, one network": _ours(alone, 1),
        "JAX, a jitted step in a Python loop": _python_loop(dataset),
    }
    entries |= _torch_entries(dataset)
    rows = {}
    for name, call in entries.items():
        first = _timed(call, command.steps)
        rows[name] = Row(name, (), first)
        print(f"{name}: first {command.steps} steps {first * command.steps:.1f} s", flush=True)
    peaks: dict[str, list[float]] = {}
    for _ in range(command.rounds):
        for name, call in entries.items():
            rows[name] = rows[name]._replace(
                seconds=(*rows[name].seconds, _timed(call, command.steps))
            )
        for name, rate in _peaks().items():
            peaks.setdefault(name, []).append(rate)
    return list(rows.values()), {name: statistics.median(each) for name, each in peaks.items()}


def training(command: Training) -> str:
    """Measure, write and return the table."""
    from experiments.benchmarks.masks import hardware

    rows, peaks = measure(command)
    work = flops_per_step([784, 500, 500, 500, 500, 10], 60)
    ours = rows[0].median
    shape_peak = peaks["products of the step's shapes"]
    lines = [
        hardware(),
        "",
        f"| FCN, batch 60, {work / 1e6:.0f} MFLOP a step | ms a step of one network | min-max "
        "| networks an hour (50,000 steps) | x ours | share of the peak of its products |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        low, high = 1e3 * min(row.seconds), 1e3 * max(row.seconds)
        lines.append(
            f"| {row.name} | {1e3 * row.median:.2f} | {low:.2f}-{high:.2f} "
            f"| {3600 / (50_000 * row.median):.1f} | {row.median / ours:.2f} "
            f"| {work / row.median / shape_peak:.0%} |"
        )
    lines += [
        "",
        "Measured peaks, all devices together: "
        + "; ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in peaks.items())
        + f". Medians of {command.rounds} rounds of {command.steps} steps.",
    ]
    text = "\n".join(lines) + "\n"
    command.out.mkdir(parents=True, exist_ok=True)
    write_atomically(command.out / "training.md", text.encode())
    numbers = {"rows": [row._asdict() for row in rows], "peaks": peaks, "flops": work}
    write_atomically(command.out / "training.json", json.dumps(numbers, indent=1).encode())
    return f"{text}\nwritten to {command.out}"


def _timed(call: Call, steps: int) -> float:
    start = time.perf_counter()
    networks = call(steps)
    return (time.perf_counter() - start) / (steps * networks)


def _data() -> Any:
    from experiments.data import Dataset

    rng = np.random.default_rng(0)
    x = rng.standard_normal((60_000, 28, 28, 1), np.float32)
    y = rng.integers(0, 10, 60_000, dtype=np.int32)
    return Dataset("random", x, y, x[:1000], y[:1000], 10)


def _pruned(trainer: Trainer, networks: int) -> Networks:
    keys = jax.random.split(jax.random.key(0), networks)
    network = trainer.init(keys)
    chain = [f"Dense_{i}" for i in range(5)]

    def masks(params: Any) -> Any:
        return lap_jax.lookahead_masks(params, chain, SPARSITY, method="MP")

    return trainer.start(network, jax.vmap(masks)(network.params))


def _ours(trainer: Trainer, networks: int) -> Call:
    keys = jax.random.split(jax.random.key(1), networks)
    held = [_pruned(trainer, networks)]
    done = itertools.count()

    def call(steps: int) -> int:
        held[0] = jax.block_until_ready(trainer.advance(held[0], keys, next(done) * steps, steps))
        return networks

    return call


def _python_loop(dataset: Any) -> Call:
    """One network, as a plain script has it: the loop is Python's, the step is jitted."""
    from experiments.networks import MODELS

    module = MODELS["fcn"].build(10, "relu")
    inputs, labels = jax.device_put((dataset.train_x, dataset.train_y))
    params = module.init(jax.random.key(0), inputs[:1], train=False)["params"]
    masks = lap_jax.lookahead_masks(params, [f"Dense_{i}" for i in range(5)], SPARSITY, method="MP")
    optimizer = lap_jax.keep_pruned(optax.adam(1.2e-3), masks)

    def step(params: Any, state: Any, key: jax.Array) -> tuple[Any, Any]:
        batch = jax.random.randint(key, (60,), 0, len(labels))

        def loss(params: Any) -> jax.Array:
            logits = module.apply({"params": params}, inputs[batch], train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(step, donate_argnums=(0, 1))
    carry = [jax.tree.map(jnp.copy, params), optimizer.init(params), jax.random.key(1)]

    def call(steps: int) -> int:
        for _ in range(steps):
            carry[2], key = jax.random.split(carry[2])
            carry[:2] = jitted(carry[0], carry[1], key)
        jax.block_until_ready(carry)
        return 1

    return call


def _torch_entries(dataset: Any) -> dict[str, Call]:
    """PyTorch, eager and compiled, where it is installed: one network, Adam, W * M forward."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: its rows are left out", flush=True)
        return {}
    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    inputs = torch.from_numpy(dataset.train_x).reshape(len(dataset.train_x), -1).to(device)
    labels = torch.from_numpy(dataset.train_y).long().to(device)

    def entry(compiled: bool) -> Call:
        torch.manual_seed(0)
        sizes = [784, 500, 500, 500, 500, 10]
        weights = [
            (torch.randn(a, b, device=device) * (2 / (a + b)) ** 0.5).requires_grad_()
            for a, b in itertools.pairwise(sizes)
        ]
        biases = [torch.zeros(b, device=device, requires_grad=True) for b in sizes[1:]]
        masks = [
            (w.abs() > w.abs().flatten().kthvalue(round(SPARSITY * w.numel())).values).float()
            for w in weights
        ]
        optimizer = torch.optim.Adam([*weights, *biases], lr=1.2e-3)

        def loss(x: Any, y: Any) -> Any:
            for index, (w, b, m) in enumerate(zip(weights, biases, masks, strict=True)):
                x = torch.addmm(b, x, w * m)
                if index < 4:
                    x = torch.relu(x)
            return torch.nn.functional.cross_entropy(x, y)

        forward = torch.compile(loss) if compiled else loss

        def call(steps: int) -> int:
            for _ in range(steps):
                batch = torch.randint(len(labels), (60,), device=device)
                optimizer.zero_grad(set_to_none=True)
                forward(inputs[batch], labels[batch]).backward()
                optimizer.step()
            if device == "cuda":
                torch.cuda.synchronize()
            return 1

        return call

    return {"PyTorch, eager": entry(False), "PyTorch, torch.compile": entry(True)}


def _peaks() -> dict[str, float]:
    """Return measured rates of matrix products in FLOP/s, all devices computing at once."""
    widths = [784, 500, 500, 500, 500, 10]
    step = []
    for index, (a, b) in enumerate(itertools.pairwise(widths)):
        step += [((60, a), (a, b)), ((a, 60), (60, b))]
        step += [((60, b), (b, a))] if index else []
    return {
        "one product of 2048 x 2048": _rate(((((2048, 2048)), (2048, 2048)),), 4),
        "products of the step's shapes": _rate(tuple(step), 100),
    }


def _rate(shapes: tuple[tuple[tuple[int, int], tuple[int, int]], ...], times: int) -> float:
    work = sum(2 * m * n * k for (m, k), (_, n) in shapes)
    calls = []
    for device in jax.devices():
        pairs = jax.device_put([(jnp.ones(a), jnp.ones(b)) for a, b in shapes], device)
        calls.append((_products(times), pairs))
    for function, pairs in calls:
        jax.block_until_ready(function(pairs))
    start = time.perf_counter()
    jax.block_until_ready([function(pairs) for function, pairs in calls])
    return work * times * len(calls) / (time.perf_counter() - start)


@functools.cache
def _products(times: int) -> Any:
    @jax.jit
    def run(pairs: Any) -> Any:
        def body(_: Any, carry: Any) -> Any:
            # Each product feeds the next round's factor, so that none can be left out.
            return [
                (a, b.at[0, 0].add(1e-9 * jax.lax.optimization_barrier(a @ b)[0, 0]))
                for a, b in carry
            ]

        return jax.lax.fori_loop(0, times, body, pairs)

    return run

"""How well scores tell the distortion of the whole network, by brute force, and what they cost.

The distortion of a weight is what removing it changes: ``|w| * ||dy/dw||_F`` over all inputs and
outputs, from explicit Jacobians of small networks without activations, which are linear in each of
their weights. Compared are ranks within a layer, and which weights are the top tenth.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import lap_jax
from experiments.benchmarks.masks import hardware
from experiments.files import write_atomically
from experiments.networks import resnet
from experiments.reporting.rendering import Row, Sheet, markdown

Params = dict[str, Any]


@dataclass(frozen=True)
class Distortion:
    """Compare scores with the brute-force distortion of small networks, and their cost."""

    seeds: int = 5
    """Networks of each kind."""
    samples: int = 1024
    """Noise inputs for the measured norms."""
    rounds: int = 9
    """Calls of each way to prune ResNet-18, for its cost; 0: none."""
    out: Path = Path("results/benchmark-distortion")
    """Folder for distortion.md."""


class Net(NamedTuple):
    """A small network that is linear in its input.

    Attributes:
      params: its kernels.
      apply: ``(params, inputs [batch, ...]) -> outputs [batch, ...]``.
      shape: of one input.
    """

    params: Params
    apply: Callable[[Params, jax.Array], jax.Array]
    shape: tuple[int, ...]


class Agreement(NamedTuple):
    """Means over layers: Spearman's correlation, and the share of the top tenth in common."""

    ranks: float
    top: float


def kernel(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Draw heavy-tailed weights: Student's t with two degrees of freedom, by fan-in."""
    fan_in = int(np.prod(shape[:-1]))
    return {"kernel": (scale * rng.standard_t(2, shape) / fan_in**0.5).astype(np.float32)}


def residual(rng: np.random.Generator, blocks: int, width: int = 48) -> Net:
    """Return a stem, ``blocks`` times ``x + x A C`` with weak blocks, and a head."""
    square = (width, width)
    params = {"stem": kernel(rng, *square)}
    for block in range(blocks):
        params[f"a{block}"] = kernel(rng, *square, scale=0.3)
        params[f"c{block}"] = kernel(rng, *square, scale=0.3)
    params["head"] = kernel(rng, *square)

    def apply(p: Params, x: jax.Array) -> jax.Array:
        h = x @ p["stem"]["kernel"]
        for block in range(blocks):
            h = h + h @ p[f"a{block}"]["kernel"] @ p[f"c{block}"]["kernel"]
        return h @ p["head"]["kernel"]

    return Net(params, apply, (width,))


def convolutional(rng: np.random.Generator, blocks: int, width: int = 5, side: int = 6) -> Net:
    """Return a residual net of 3x3 convolutions, zero padded, and a dense head on the mean."""
    params = {"stem": kernel(rng, 3, 3, 2, width)}
    for block in range(blocks):
        params[f"a{block}"] = kernel(rng, 3, 3, width, width, scale=0.5)
        params[f"c{block}"] = kernel(rng, 3, 3, width, width, scale=0.5)
    params["head"] = kernel(rng, width, 8)

    def apply(p: Params, x: jax.Array) -> jax.Array:
        h = _conv(x, p["stem"])
        for block in range(blocks):
            h = h + _conv(_conv(h, p[f"a{block}"]), p[f"c{block}"])
        return h.mean((1, 2)) @ p["head"]["kernel"]

    return Net(params, apply, (side, side, 2))


def chain(rng: np.random.Generator, side: int) -> Net:
    """Return four 3x3 convolutions, zero padded, on maps of ``side``."""
    widths = (2, 6, 6, 6, 3)
    params = {
        f"conv{place}": kernel(rng, 3, 3, *pair)
        for place, pair in enumerate(itertools.pairwise(widths))
    }

    def apply(p: Params, x: jax.Array) -> jax.Array:
        for name in params:
            x = _conv(x, p[name])
        return x

    return Net(params, apply, (side, side, 2))


def concatenating(rng: np.random.Generator, layers: int = 4, growth: int = 12) -> Net:
    """Return a dense block: each layer reads all before it, the head reads all."""
    params = {"stem": kernel(rng, 24, 24)}
    for layer in range(layers):
        params[f"layer{layer}"] = kernel(rng, 24 + layer * growth, growth)
    params["head"] = kernel(rng, 24 + layers * growth, 10)

    def apply(p: Params, x: jax.Array) -> jax.Array:
        h = x @ p["stem"]["kernel"]
        for layer in range(layers):
            h = jnp.concatenate([h, h @ p[f"layer{layer}"]["kernel"]], -1)
        return h @ p["head"]["kernel"]

    return Net(params, apply, (24,))


def grouped(rng: np.random.Generator) -> Net:
    """Return an inverted residual of 1x1, depthwise and grouped convolutions around a shortcut."""
    params = {
        "stem": kernel(rng, 3, 3, 2, 8),
        "expand": kernel(rng, 1, 1, 8, 16, scale=0.5),
        "depthwise": kernel(rng, 3, 3, 1, 16, scale=0.5),
        "project": kernel(rng, 1, 1, 4, 8, scale=0.5),
        "head": kernel(rng, 8, 6),
    }

    def apply(p: Params, x: jax.Array) -> jax.Array:
        h = _conv(x, p["stem"])
        y = _conv(_conv(h, p["expand"]), p["depthwise"], groups=16)
        h = h + _conv(y, p["project"], groups=4)
        return h.mean((1, 2)) @ p["head"]["kernel"]

    return Net(params, apply, (6, 6, 2))


def _conv(x: jax.Array, layer: Mapping[str, jax.Array], groups: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )  # fmt: skip


NETS: dict[str, Callable[[np.random.Generator], Net]] = {
    "residual, 1 block": lambda rng: residual(rng, 1),
    "residual, 4 blocks": lambda rng: residual(rng, 4),
    "residual, 12 blocks": lambda rng: residual(rng, 12),
    "convolutional, 1 block": lambda rng: convolutional(rng, 1),
    "convolutional, 4 blocks": lambda rng: convolutional(rng, 4),
    "convolutional, 12 blocks": lambda rng: convolutional(rng, 12),
    "concatenating": concatenating,
    "grouped": grouped,
    "convolutions, 8x8": lambda rng: chain(rng, 8),
    "convolutions, 2x2": lambda rng: chain(rng, 2),
}

_HORIZON = lap_jax.METHODS["LAP"]._replace(horizon="all")
_LAGS = lap_jax.METHODS["LAP"]._replace(lags=True)


def ways(
    graph: lap_jax.Graph, measured: Mapping[str, lap_jax.Measured]
) -> dict[str, tuple[lap_jax.Graph, dict[str, Any]]]:
    """Return the ways to score, as a graph and arguments of `lap_jax.lookahead_scores`."""
    return {
        "MP": (graph, {"method": "MP"}),
        "LAP, chain order": (graph.main_path(), {}),
        "LAP, identity = 1": (graph.identity_shortcuts(), {}),
        "LAP, traced": (graph, {}),
        "LAP, traced, exact lags": (graph, {"method": _LAGS}),
        "LAP, horizon all": (graph, {"method": _HORIZON}),
        "LAP, measured on noise": (graph, {"measured": measured}),
    }


def brute_force(net: Net) -> dict[str, np.ndarray]:
    """Return ``|w| * ||dy/dw||_F`` of every weight, over a basis of inputs and of outputs."""
    size = int(np.prod(net.shape))
    basis = jnp.eye(size).reshape(size, *net.shape)

    def energy(params: Params) -> Params:
        def one(x: jax.Array) -> Params:
            slopes = jax.jacrev(lambda p: net.apply(p, x[None])[0])(params)
            axes = tuple(range(net.apply(params, x[None])[0].ndim))
            return jax.tree.map(lambda slope: (slope**2).sum(axes), slopes)

        return jax.tree.map(lambda each: each.sum(0), lax.map(one, basis, batch_size=8))

    found = jax.jit(energy)(net.params)
    return {
        name: np.abs(net.params[name]["kernel"]) * np.sqrt(np.asarray(found[name]["kernel"]))
        for name in net.params
    }


def agreement(scores: Mapping[str, Any], truth: Mapping[str, np.ndarray]) -> Agreement:
    """Compare scores with the truth, layer by layer."""
    ranks, top = [], []
    for name, true in truth.items():
        pair = [np.ravel(true), np.ravel(np.asarray(scores[name]))]
        order = [np.argsort(np.argsort(values)) for values in pair]
        ranks.append(np.corrcoef(order[0], order[1])[0, 1])
        count = max(len(pair[0]) // 10, 1)
        best = [set(np.argsort(-values)[:count]) for values in pair]
        top.append(len(best[0] & best[1]) / count)
    return Agreement(float(np.mean(ranks)), float(np.mean(top)))


def compare(net: Net, samples: int, seed: int) -> dict[str, Agreement]:
    """Return the agreement of each way with the brute force on one network."""
    x = jax.random.normal(jax.random.key(seed), (samples, *net.shape))
    graph = lap_jax.trace(net.apply, net.params, x[:1])
    measured = lap_jax.measure(net.apply, net.params, x, graph=graph)
    truth = brute_force(net)
    return {
        name: agreement(lap_jax.lookahead_scores(net.params, seen, **options), truth)
        for name, (seen, options) in ways(graph, measured).items()
    }


def costs(rounds: int) -> dict[str, float]:
    """Return seconds per call of the masks of ResNet-18, each way; the median of calls in turn."""
    module = resnet.ResNet18(10)
    x = jnp.zeros((1, 32, 32, 3))
    variables = module.init(jax.random.key(0), x)
    graph = lap_jax.trace(module, variables, x)
    params, stats = variables["params"], variables["batch_stats"]
    noise = jax.random.normal(jax.random.key(1), (16, 32, 32, 3))
    taken: dict[str, list[float]] = {}
    calls: dict[str, Callable[[], Any]] = {}
    measured = lap_jax.measure(module, variables, noise, graph=graph)
    for name, (seen, options) in ways(graph, measured).items():
        calls[name] = lambda seen=seen, options=options: lap_jax.lookahead_masks(  # type: ignore[misc]
            params, seen, 0.9, batch_stats=stats, **options
        )
    for call in calls.values():
        jax.block_until_ready(call())
    for _ in range(rounds):
        for name, call in calls.items():
            begun = time.perf_counter()
            jax.block_until_ready(call())
            taken.setdefault(name, []).append(time.perf_counter() - begun)
    return {name: statistics.median(times) for name, times in taken.items()}


def distortion(command: Distortion) -> str:
    """Compare, write and return the table."""
    found: dict[str, list[dict[str, Agreement]]] = {}
    for name, make in NETS.items():
        for seed in range(command.seeds):
            net = make(np.random.default_rng(seed))
            found.setdefault(name, []).append(compare(net, command.samples, seed))
        print(f"{name}: {len(found[name])} networks", flush=True)
    taken = costs(command.rounds) if command.rounds else {}
    text = report(command, found, taken)
    command.out.mkdir(parents=True, exist_ok=True)
    write_atomically(command.out / "distortion.md", text.encode())
    return text


def report(
    command: Distortion, found: Mapping[str, Sequence[Mapping[str, Agreement]]],
    taken: Mapping[str, float],
) -> str:  # fmt: skip
    """Return the tables as Markdown."""
    names = list(next(iter(found.values()))[0])
    tables = []
    for title, field in (
        ("Rank correlation (Spearman) with the distortion of the whole network", "ranks"),
        ("Share of the top tenth in common", "top"),
    ):
        rows = tuple(
            Row(
                kind,
                tuple(_spread([getattr(each[name], field) for each in nets]) for name in names),
            )
            for kind, nets in found.items()
        )
        tables.append(f"{title}:\n\n{markdown(Sheet('', tuple(names), rows))}")
    text = (
        f"Scores against brute force: means over the layers of small linear networks, mean ± "
        f"sample standard deviation over {command.seeds} networks of each kind; measured on "
        f"{command.samples} standard normal inputs.\n\n" + "\n\n".join(tables)
    )
    if taken:
        base = taken["LAP, traced"]
        cells = tuple(
            Row(name, (f"{1000 * seconds:.0f}", f"{seconds / base:.2f}"))
            for name, seconds in taken.items()
        )
        sheet = Sheet("", ("ms", "of LAP, traced"), cells)
        text += (
            f"\n\nTime of the masks of ResNet-18, medians of {command.rounds} calls in turn (the "
            f"measuring itself is not in it):\n\n{markdown(sheet)}"
        )
    flags = f" --seeds {command.seeds}" if command.seeds != Distortion.seeds else ""
    return f"{text}\n\n`python -m experiments.benchmarks distortion{flags}`; {hardware()}\n"


def _spread(values: Sequence[float]) -> str:
    spread = f"±{statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"

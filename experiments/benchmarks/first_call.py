"""What the first call costs, compilation included: how it grows with depth, and under `jax.jit`.

Each call is the first one of a process of its own; what counts is CPU time, because the compiler
uses more than one core, and other work on the machine does not slow it down as it does a clock.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lap_jax

WIDTH, HIDDEN, HEADS = 64, 128, 4
DEPTHS = (4, 64)
METHODS = ("MP", "LAP", "LAP-backward-seq")


@dataclass(frozen=True)
class FirstCall:
    """Time first calls of masks: 4 and 64 equal layers, a decoder, four of its blocks under jit."""

    rounds: int = 3
    """Processes for each case."""
    before: Path | None = None
    """Folder of another checkout of this project, which is measured in turn with this one."""
    out: Path = Path("results/benchmark-first-call")
    """Folder for first-call.md."""


def first_call(command: FirstCall, say: Callable[[str], None] = print) -> str:
    """Measure, write the table and return it.

    Raises:
      ValueError: for less than one round.
      subprocess.CalledProcessError: if a case fails.
    """
    if command.rounds < 1:
        raise ValueError(f"--rounds is {command.rounds}: expected 1 or more")
    here = Path(__file__).resolve().parents[2]
    checkouts = {"": here} | ({"before: ": command.before.resolve()} if command.before else {})
    seconds: dict[str, list[float]] = {}
    for number in range(command.rounds):
        for case in CASES:
            for prefix, folder in checkouts.items():
                cpu = _in_process(folder, case)
                seconds.setdefault(prefix + case, []).append(cpu)
                say(f"round {number + 1} of {command.rounds}: {prefix}{case}: {cpu:.2f} s of CPU")
    text = table(seconds)
    command.out.mkdir(parents=True, exist_ok=True)
    path = command.out / "first-call.md"
    part = path.with_suffix(".part")
    part.write_text(text)
    os.replace(part, path)
    return text


def _in_process(checkout: Path, case: str) -> float:
    done = subprocess.run(
        [sys.executable, __file__, case],
        env=os.environ | {"PYTHONPATH": str(checkout)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ValueError(f"{case} in {checkout} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout)


def table(seconds: dict[str, list[float]]) -> str:
    """Return Markdown: a row a case, and how many times the few layers the many take."""
    device = jax.devices()[0].device_kind
    lines = [
        f"{device}, {os.cpu_count()} CPU cores, JAX {jax.__version__}; CPU seconds of the first "
        "call, median (least to most)",
        "",
        "| case | this | before | this / before |",
        "|---|---:|---:|---:|",
    ]
    for case in CASES:
        ours, others = seconds[case], seconds.get(f"before: {case}")
        ratio = "" if others is None else f"{_median(ours) / _median(others):.2f}"
        lines.append(f"| {case} | {_spread(ours)} | {_spread(others)} | {ratio} |")
    few, many = DEPTHS
    lines += ["", f"| {many} layers over {few} | this | before |", "|---|---:|---:|"]
    for method in METHODS:
        cells = []
        for prefix in ("", "before: "):
            parts = [seconds.get(f"{prefix}{depth} layers, {method}") for depth in (many, few)]
            cells.append("" if None in parts else f"{_median(parts[0]) / _median(parts[1]):.2f}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _median(seconds: Sequence[float] | None) -> float:
    return statistics.median(seconds or [float("nan")])


def _spread(seconds: Sequence[float] | None) -> str:
    if seconds is None:
        return ""
    return f"{_median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


# ---------------------------------------------------------------- what is called, in a process


def _layers(depth: int) -> tuple[Any, Any]:
    """Return equal dense layers in a row, and their chain."""
    rng = np.random.default_rng(0)
    params = {
        f"layer_{i:02}": {"kernel": jnp.asarray(rng.normal(size=(WIDTH, WIDTH)), jnp.float32)}
        for i in range(depth)
    }
    return params, lap_jax.chain(params, list(params))


def _decoder(blocks: int) -> tuple[Any, Any]:
    """Return a decoder of seven kernels a block, and its traced graph."""
    rng = np.random.default_rng(0)
    shapes = {name: (WIDTH, WIDTH) for name in "qkvo"}
    shapes |= {"gate": (WIDTH, HIDDEN), "up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH)}
    params = {
        f"block_{i:02}": {
            name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()
        }
        for i in range(blocks)
    }
    return params, lap_jax.trace(_decode, params, jnp.ones((1, 8, WIDTH)))


def _decode(params: Any, x: jax.Array) -> jax.Array:
    for block in params.values():
        q, k, v = ((x @ block[name]).reshape(*x.shape[:2], HEADS, WIDTH // HEADS) for name in "qkv")
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        x = x + jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape) @ block["o"]
        x = x + (jax.nn.silu(x @ block["gate"]) * (x @ block["up"])) @ block["down"]
    return x


def _plain(setup: Callable[[], tuple[Any, Any]], method: str) -> Callable[[], Any]:
    params, graph = setup()
    return lambda: lap_jax.lookahead_masks(params, graph, 0.8, method=lap_jax.METHODS[method])


def _jitted(setup: Callable[[], tuple[Any, Any]], method: str) -> Callable[[], Any]:
    params, graph = setup()
    chosen = lap_jax.METHODS[method]
    call = jax.jit(lambda params: lap_jax.lookahead_masks(params, graph, 0.8, method=chosen))
    return lambda: call(params)


CASES: dict[str, Callable[[], Callable[[], Any]]] = {
    **{
        f"{depth} layers, {method}": partial(_plain, partial(_layers, depth), method)
        for method in METHODS
        for depth in DEPTHS
    },
    "decoder, 84 kernels, LAP": partial(_plain, partial(_decoder, 12), "LAP"),
    "28 kernels under jit, MP": partial(_jitted, partial(_decoder, 4), "MP"),
    "28 kernels under jit, LAP": partial(_jitted, partial(_decoder, 4), "LAP"),
}


def main(case: str) -> None:
    """Print the CPU seconds of a case's first call."""
    call = CASES[case]()
    start = time.process_time()
    jax.block_until_ready(call())
    print(time.process_time() - start)


if __name__ == "__main__":
    main(sys.argv[1])

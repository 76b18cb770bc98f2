"""Time of making masks: ours and others' in turn, in one run."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments.benchmarks.entries import Call, Peers, Unavailable, entries, miscount
from experiments.benchmarks.workloads import Workload

Say = Callable[[str], None]
SLOW = 1.0
"""Seconds of a call beyond which an entry is called in three rounds only."""


class Timing(NamedTuple):
    """An entry on a workload.

    Attributes:
      workload, size, name: what was pruned, its number of weights, and by what.
      first: seconds of the first call, compilation included.
      seconds: of each further call.
      more: how many weights more than wanted the masks keep.
      memory: peak bytes of memory beyond those before the first call; None if not measured.
      note: why there is no time.
    """

    workload: str
    size: int
    name: str
    first: float = float("nan")
    seconds: tuple[float, ...] = ()
    more: int = 0
    memory: int | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """Median seconds of a call."""
        return statistics.median(self.seconds) if self.seconds else float("nan")


def measure(
    workload: Workload, names: Sequence[str], peers: Peers, rounds: int, say: Say
) -> list[Timing]:
    """Time entries in turn, so that a busy machine is busy for all of them.

    Args:
      workload: what to prune.
      names: of `entries`.
      peers: where other people's programs are.
      rounds: calls of each after the first one.
      say: is told of each entry that is set up.
    """
    setups = entries(workload, peers)
    timings, calls = {}, dict[str, Call]()
    for name in names:
        timing = Timing(workload.name, workload.size, name)
        try:
            calls[name] = setups[name]()
        except Unavailable as error:
            timings[name] = timing._replace(note=str(error))
            say(f"{workload.name}: {name}: {error}")
            continue
        first, masks = _timed(calls[name])
        more = 0 if name == "memcpy" else miscount(name, workload, masks)
        timings[name] = timing._replace(first=first, more=more)
        say(f"{workload.name}: {name}: first call {first:.2f} s")
    for number in range(rounds):
        for name, call in calls.items():
            if number < 3 or timings[name].median < SLOW:
                seconds, _ = _timed(call)
                timings[name] = timings[name]._replace(seconds=(*timings[name].seconds, seconds))
    return [timings[name] for name in names]


def peak_memory(workload: str, name: str, peers: Peers) -> int | None:
    """Return the peak bytes of a first call, beyond those before it, in a process of its own."""
    arguments = [workload, name, *(str(folder or "") for folder in peers)]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.memory", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return int(done.stdout) if done.returncode == 0 else None


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the power of the size that time grows with: least squares on logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def hardware() -> str:
    """Describe what this runs on."""
    device = jax.devices()[0]
    return (
        f"{device.device_kind} x{jax.device_count()}, {os.cpu_count()} CPU cores, "
        f"JAX {jax.__version__}, NumPy {np.__version__}, Python {platform.python_version()}"
    )


def table(timings: Sequence[Timing]) -> str:
    """Return Markdown: a row per entry, with ratios to the floor and to our MP."""
    by_name = {timing.name: timing.median for timing in timings}
    floor, ours = by_name.get("floor", float("nan")), by_name.get("MP", float("nan"))
    memory = any(timing.memory is not None for timing in timings)
    lines = [
        f"| {timings[0].workload}, {timings[0].size:,} weights | median ms | min-max | x floor "
        f"| x our MP | first call s | calls | kept too many |{' peak MB |' if memory else ''}",
        "|---|" + "---:|" * (8 if memory else 7),
    ]
    for timing in timings:
        if not timing.seconds:
            lines.append(f"| {timing.name} | {timing.note} |" + " |" * (7 if memory else 6))
            continue
        low, high = 1e3 * min(timing.seconds), 1e3 * max(timing.seconds)
        cells = [
            timing.name, f"{1e3 * timing.median:.1f}", f"{low:.1f}-{high:.1f}",
            f"{timing.median / floor:.1f}", f"{timing.median / ours:.2f}", f"{timing.first:.2f}",
            str(len(timing.seconds)), str(timing.more),
        ]  # fmt: skip
        if memory:
            cells.append("-" if timing.memory is None else f"{timing.memory / 1e6:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _timed(call: Call) -> tuple[float, list[object]]:
    start = time.perf_counter()
    masks = jax.block_until_ready(call())
    return time.perf_counter() - start, masks

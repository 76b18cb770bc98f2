"""Command line of the benchmarks: masks, models, first-call, scale, training, and others."""

from __future__ import annotations

import csv
import difflib
import io
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from experiments.benchmarks.accuracy import Accuracy, accuracy
from experiments.benchmarks.distortion import Distortion, distortion
from experiments.benchmarks.first_call import FirstCall, first_call
from experiments.benchmarks.models.command import Models, models
from experiments.benchmarks.retraining import Retraining, retraining
from experiments.benchmarks.scale import Scale, scale
from experiments.benchmarks.shrinking import Shrink, shrink
from experiments.benchmarks.training import Training, training
from experiments.cli.commands import BadFlag
from experiments.data import DataError
from experiments.files import write_atomically
from experiments.running.devices import one_device_per_core
from experiments.store import ResultsError
from lap_jax import PruningError

GROWTH = (1e6, 3e6, 1e7, 3e7, 1e8)
GROWING = (
    "floor",
    "MP",
    "LAP",
    "numpy.partition",
    "jnp.sort",
    "torch l1_unstructured",
    "JaxPruner",
)


@dataclass(frozen=True)
class Masks:
    """Time our masks and others' on the same weights, in turn, in one run."""

    workloads: tuple[Literal["vgg19", "resnet18", "matrix", "stack"], ...] = ("vgg19", "resnet18")
    """vgg19: 20M weights; resnet18: 11M; matrix: one of 100M; stack: ten of 100M (40 GB free)."""
    entries: tuple[str, ...] = ()
    """Which rows; by default all."""
    rounds: int = 9
    """Calls of each, after the first; three of those that take more than a second."""
    growth: bool = True
    """Also time squares matrices of 1M to 100M weights and draw the picture."""
    memory: bool = False
    """Also measure the peak memory of each entry, in a process of its own."""
    jaxpruner: Path | None = None
    """Folder of a JaxPruner checkout."""
    reference: Path | None = None
    """Folder of a checkout of the paper's own program (PyTorch)."""
    out: Path = Path("results/benchmark-masks")
    """Folder for masks.md, masks.csv and growth.png."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    command = tyro.cli(
        Masks | Models | FirstCall | Scale | Training | Retraining | Distortion | Accuracy | Shrink,
        prog="python -m experiments.benchmarks",
        args=arguments,
    )
    try:
        if isinstance(command, FirstCall):
            print(first_call(command))
        elif isinstance(command, Models):
            models(command)
        elif isinstance(command, Shrink):
            one_device_per_core()
            print(shrink(command))
        elif isinstance(command, Scale):
            print(scale(command))
        elif isinstance(command, Training):
            one_device_per_core()
            print(training(command))
        elif isinstance(command, Retraining):
            print(retraining(command))
        elif isinstance(command, Distortion):
            print(distortion(command))
        elif isinstance(command, Accuracy):
            accuracy(command)
        else:
            masks(command)
    except (
        ValueError, BadFlag, DataError, PruningError, ResultsError, OSError,
        subprocess.CalledProcessError,
    ) as error:  # fmt: skip
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def masks(command: Masks) -> None:
    """Time, print and write."""
    from experiments.benchmarks import masks as timing
    from experiments.benchmarks.entries import Peers, entries
    from experiments.benchmarks.workloads import WORKLOADS, squares

    peers = Peers(command.jaxpruner, command.reference)
    known = list(entries(squares(256), peers))
    for name in command.entries:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known
            raise ValueError(f"--entries: unknown {name!r}; nearest: {', '.join(close)}")
    if command.rounds < 1:
        raise ValueError(f"--rounds is {command.rounds}: expected 1 or more")
    names = [name for name in known if not command.entries or name in command.entries]
    command.out.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        print(text, flush=True)

    parts, found = [timing.hardware()], []
    for workload in command.workloads:
        timings = timing.measure(WORKLOADS[workload](), names, peers, command.rounds, say)
        if command.memory:
            timings = [
                each._replace(memory=timing.peak_memory(workload, each.name, peers))
                if each.seconds
                else each
                for each in timings
            ]
        found += timings
        parts.append(timing.table(timings))
    if command.growth:
        from experiments.benchmarks.growth import growth_table, plot

        grown = []
        growing = [name for name in names if name in GROWING]
        for size in GROWTH:
            grown += timing.measure(squares(int(size)), growing, peers, min(command.rounds, 5), say)
        found += grown
        parts.append(growth_table(grown))
        plot(grown, command.out / "growth.png")
    text = "\n\n".join(parts) + "\n"
    write_atomically(command.out / "masks.md", text.encode())
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["workload", "weights", "entry", "call", "seconds"])
    for each in found:
        for number, seconds in enumerate((each.first, *each.seconds)):
            writer.writerow([each.workload, each.size, each.name, number, f"{seconds:.6g}"])
    write_atomically(command.out / "masks.csv", lines.getvalue().encode())
    print(f"\n{text}\nwritten to {command.out}")


if __name__ == "__main__":
    sys.exit(main())

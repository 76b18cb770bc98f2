"""Results on disk: one SQLite file per run folder, one row per finished trial."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from experiments.trial import Trial


class ResultsError(Exception):
    """Results cannot be read or written; the message says which and what to do."""


class Evaluation(NamedTuple):
    """Errors of a network at some moment: fractions of wrong answers, mean cross entropy in nats.

    Attributes:
      step: -1 the trained network, 0 the same pruned, more: after so many steps of retraining.
      train_error, train_loss: over the whole training set.
      test_error, test_loss: over the whole test set.
    """

    step: int
    train_error: float
    train_loss: float | None
    test_error: float
    test_loss: float | None


class LayerCount(NamedTuple):
    """What is left of a layer: weights, and neurons without a weight before or after them.

    Effective are kept weights on a path from the network's input to its output; None where they
    were not counted.
    """

    name: str
    size: int
    kept: int
    neurons: int
    dead: int
    effective: int | None = None


@dataclass(frozen=True)
class Result:
    """What came of a trial.

    Attributes:
      trial: its settings.
      kept: kept weights over all weights of the pruned kernels.
      multiply_adds: those of the kept weights for one example, over those of all weights in the
        pruned kernels; None where it was not counted.
      layers: the pruned kernels, first to last.
      evaluations: by step; the first is -1, the second 0 and the last that of the last step.
      seconds: wall-clock time of retraining and evaluation, divided among the networks that were
        retrained together.
    """

    trial: Trial
    kept: float
    multiply_adds: float | None
    layers: tuple[LayerCount, ...]
    evaluations: tuple[Evaluation, ...]
    seconds: float

    @property
    def effective(self) -> float | None:
        """Effective weights over the kept ones; None where they were not counted."""
        counted = [layer.effective for layer in self.layers if layer.effective is not None]
        kept = sum(layer.kept for layer in self.layers)
        known = bool(counted) and len(counted) == len(self.layers)
        return sum(counted) / max(kept, 1) if known else None

    @property
    def left(self) -> str:
        """The share of weights kept, in words, and how many of them are effective."""
        told = "" if self.effective is None else f" ({self.effective:.1%} effective)"
        return f"{self.kept:.2%}{told}"

    @property
    def trained(self) -> Evaluation:
        """Errors of the trained network, not yet pruned."""
        return self.evaluations[0]

    @property
    def pruned(self) -> Evaluation:
        """Errors after pruning, before retraining."""
        return self.evaluations[1]

    @property
    def retrained(self) -> Evaluation:
        """Errors after the last step of retraining."""
        return self.evaluations[-1]


class Store:
    """Results of a run folder: ``results.sqlite``. Each result is written in one transaction.

    Table ``cells`` has a row per trial, table ``evaluations`` one per trial and evaluated step.
    Several processes may share a folder.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder's ``results.sqlite``, made if it is not there.

        Raises:
          ResultsError: here and in the methods, if the file is none of ours or cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResultsError(
                f"{folder} cannot hold results ({error.strerror}): name another folder"
            ) from None
        self.folder = folder
        self._path = folder / "results.sqlite"
        with self._connected() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS cells (name TEXT PRIMARY KEY, trial TEXT NOT NULL,"
                " seed INTEGER NOT NULL, kept REAL NOT NULL, multiply_adds REAL,"
                " layers TEXT NOT NULL, seconds REAL NOT NULL, written TEXT NOT NULL,"
                " made_with TEXT NOT NULL)"
            )
            connection.execute(
                "CREATE TABLE IF NOT EXISTS evaluations (cell TEXT NOT NULL REFERENCES cells(name),"
                " step INTEGER NOT NULL, train_error REAL NOT NULL, train_loss REAL,"
                " test_error REAL NOT NULL, test_loss REAL, PRIMARY KEY (cell, step))"
            )

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """Open a connection for one transaction."""
        try:
            with closing(sqlite3.connect(self._path, timeout=60)) as connection, connection:
                yield connection
        except sqlite3.Error as error:
            raise ResultsError(
                f"{self._path}: {error}; what it holds is left as it was: mend that, or name "
                "another folder"
            ) from None

    def add(self, results: Sequence[Result]) -> None:
        """Write results in one transaction; one that is there already is replaced."""
        when, made = datetime.now(UTC).isoformat(timespec="seconds"), json.dumps(made_with())
        with self._connected() as connection:
            for result in results:
                name = result.trial.name
                row = (
                    name,
                    json.dumps(asdict(result.trial)),
                    result.trial.seed,
                    result.kept,
                    result.multiply_adds,
                    json.dumps(result.layers),
                    result.seconds,
                    when,
                    made,
                )
                connection.execute(
                    f"INSERT OR REPLACE INTO cells VALUES ({','.join('?' * len(row))})", row
                )
                connection.execute("DELETE FROM evaluations WHERE cell = ?", (name,))
                connection.executemany(
                    "INSERT INTO evaluations VALUES (?, ?, ?, ?, ?, ?)",
                    [(name, *evaluation) for evaluation in result.evaluations],
                )

    def names(self) -> set[str]:
        """Return the names of the trials that have a result."""
        with self._connected() as connection:
            return {name for (name,) in connection.execute("SELECT name FROM cells")}

    def made_with(self) -> list[dict[str, str]]:
        """Return the versions, devices and commits that results were made with, each once."""
        with self._connected() as connection:
            rows = connection.execute("SELECT DISTINCT made_with FROM cells").fetchall()
        return [json.loads(made) for (made,) in rows]

    def load(self) -> list[Result]:
        """Return all results, in the order in which they were written."""
        with self._connected() as connection:
            cells = connection.execute(
                "SELECT name, trial, kept, multiply_adds, layers, seconds FROM cells ORDER BY rowid"
            ).fetchall()
            rows = connection.execute("SELECT * FROM evaluations ORDER BY cell, step").fetchall()
        evaluations: dict[str, list[Evaluation]] = {}
        for name, *numbers in rows:
            evaluations.setdefault(name, []).append(Evaluation(*numbers))
        try:
            return [
                Result(
                    Trial(**json.loads(trial)),
                    kept,
                    multiply_adds,
                    tuple(LayerCount(*layer) for layer in json.loads(layers)),
                    tuple(evaluations[name]),
                    seconds,
                )
                for name, trial, kept, multiply_adds, layers, seconds in cells
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise ResultsError(
                f"{self._path} was written by another version ({error}): use that one, or name "
                "another folder"
            ) from None


def by_run(results: Sequence[Result]) -> list[list[Result]]:
    """Split results by their settings other than way, level and seed."""
    groups: dict[Trial, list[Result]] = {}
    for result in results:
        groups.setdefault(result.trial.run, []).append(result)
    return list(groups.values())


def made_with() -> dict[str, str]:
    """Versions, device and commit that a result is made with."""
    import flax
    import jax
    import optax

    import lap_jax

    try:
        commit = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        commit = ""
    return {
        "lap_jax": lap_jax.__version__,
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "python": platform.python_version(),
        "device": f"{jax.devices()[0].device_kind} x{jax.device_count()}, {os.cpu_count()} cores",
        "commit": commit,
    }

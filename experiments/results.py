"""Results on disk: one SQLite file per run folder, one row per finished trial."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path


class ResultsError(Exception):
    """Results cannot be read or written; the message says which and what to do."""


@dataclass(frozen=True)
class Trial:
    """One network pruned once: everything that its result depends on.

    A field that is added later gets a default, and defaults are left out of the name, so that old
    names stay valid.
    """

    model: str
    activation: str
    dataset: str
    method: str
    tau: int
    seed: int
    train_steps: int
    retrain_steps: int
    batch_size: int
    learning_rate: float

    @property
    def name(self) -> str:
        """Sixteen hexadecimal digits of the settings' SHA-256."""
        return settings_name(asdict(self), {field.name: field.default for field in fields(self)})

    @property
    def run(self) -> Trial:
        """The settings without method, level and seed, which the trials of a table share."""
        return replace(self, method="", tau=0, seed=0)


@dataclass(frozen=True)
class Result:
    """What came of a trial.

    Attributes:
      trial: its settings.
      kept: kept weights over all weights of the pruned kernels.
      unpruned, before, after: test error, a fraction, of the trained network, after pruning, and
        after retraining.
      train_unpruned, train_before, train_after: the same on the training set.
      seconds: wall-clock time of pruning, retraining and evaluation.
    """

    trial: Trial
    kept: float
    unpruned: float
    before: float
    after: float
    train_unpruned: float
    train_before: float
    train_after: float
    seconds: float


def settings_name(settings: dict[str, object], defaults: dict[str, object]) -> str:
    """Name settings by their hash, those at their default left out."""
    told = {key: value for key, value in settings.items() if defaults.get(key) != value}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


class Store:
    """Results of a run folder. Each row is written in a transaction of its own."""

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
                "CREATE TABLE IF NOT EXISTS results (name TEXT PRIMARY KEY, trial TEXT NOT NULL,"
                " result TEXT NOT NULL, written TEXT NOT NULL, made_with TEXT NOT NULL)"
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

    def add(self, result: Result) -> None:
        """Write one result; one that is there already under the same name is replaced."""
        numbers = {key: value for key, value in asdict(result).items() if key != "trial"}
        row = (
            result.trial.name,
            json.dumps(asdict(result.trial)),
            json.dumps(numbers),
            datetime.now(UTC).isoformat(timespec="seconds"),
            json.dumps(made_with()),
        )
        with self._connected() as connection:
            connection.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)", row)

    def load(self) -> list[Result]:
        """Return all results, in the order in which they were written."""
        with self._connected() as connection:
            rows = connection.execute("SELECT trial, result FROM results ORDER BY rowid").fetchall()
        try:
            return [
                Result(Trial(**json.loads(trial)), **json.loads(numbers)) for trial, numbers in rows
            ]
        except (TypeError, ValueError) as error:
            raise ResultsError(
                f"{self._path} was written by another version ({error}): use that one, or name "
                "another folder"
            ) from None


def by_run(results: Sequence[Result]) -> list[list[Result]]:
    """Split results by their settings other than method, level and seed."""
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


def write_csv(results: Sequence[Result], path: Path) -> None:
    """Write one line per result, settings first."""
    out = io.StringIO()
    rows = [asdict(result.trial) | {k: v for k, v in asdict(result).items() if k != "trial"}
            for result in results]  # fmt: skip
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, out.getvalue().encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the file, then rename: nobody sees half a file."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise

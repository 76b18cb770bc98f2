"""The command `models`: row by row, and on with what is there."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.metadata
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax

from experiments.benchmarks.models.catalogue import entries
from experiments.benchmarks.models.row import LIMIT, Entry, Row, found, missing
from experiments.benchmarks.models.shrunk import Shrunk, shrunk, shrunk_table
from experiments.benchmarks.models.table import from_json, table, to_json
from experiments.files import write_atomically
from experiments.running.progress import progress

OWN = ("lap_jax", "benchmark")
"""Of a row's versions, digests of files of this repository."""


@dataclass(frozen=True)
class Models:
    """Trace models of other libraries, as far as they are installed, and check the graphs."""

    only: tuple[str, ...] = ()
    """Which rows, as LIBRARY/MODEL/DTYPE; patterns are welcome. By default all."""
    list: bool = False
    """Only say which rows there are."""
    oracle: bool = True
    """Also check the edges by perturbing channels; takes most of the time."""
    shrink: bool = False
    """Prune and shrink the models instead, and hold the small ones against the masked ones."""
    again: bool = False
    """Also do rows that are done."""
    limit: float = LIMIT
    """Seconds of CPU for a row; it ends with what is known by then, and says so."""
    big_vision: Path | None = None
    """Folder of a checkout of big_vision."""
    flax: Path | None = None
    """Folder of a checkout of Flax, for its examples."""
    out: Path = Path("results/benchmark-models")
    """Folder for models.md and models.json, with --shrink shrink.md and shrink.json; the command
    goes on with what it finds there."""


def models(command: Models, say: Callable[[str], None] = print) -> str:
    """Do the rows that are not done, and return the table of all; empty if they are only listed.

    Raises:
      ValueError: if a pattern matches no row, the limit is not positive, or the folder holds rows
        of another version.
    """
    if command.limit <= 0:
        raise ValueError(f"--limit is {command.limit}: expected seconds, more than 0")
    known = entries(command.big_vision, command.flax)
    if command.shrink:
        known = [entry for entry in known if not entry.weightless]
    wanted = chosen(known, command.only)
    if command.list:
        say("\n".join(map(_listed, wanted)))
        return ""
    command.out.mkdir(parents=True, exist_ok=True)
    stem = "shrink" if command.shrink else "models"
    path = command.out / f"{stem}.json"
    rows: dict[str, Any] = {}
    if path.exists():
        kind: Any = Shrunk if command.shrink else Row
        rows = {_key(row): row for row in from_json(path.read_text(), kind)}
    library = find_spec("lap_jax")
    assert library is not None
    assert library.origin is not None
    folders = (Path(library.origin).parent, Path(__file__).parent)
    own = dict(zip(OWN, map(digest_of, folders), strict=True))
    versions = {entry.name: versions_of(entry) | own for entry in wanted}
    todo = [
        entry for entry in wanted
        if command.again or not is_done(rows.get(entry.name), entry, versions[entry.name])
    ]  # fmt: skip
    order = [entry.name for entry in known]
    with progress(len(todo), "models") as (tick, note):
        for entry in todo:
            row = _done(command, entry, versions[entry.name], rows)
            rows[entry.name] = row
            note(f"{entry.name}: {_said(row)}")
            tick(1)
            some = [rows[name] for name in order if name in rows]
            write_atomically(path, to_json(some).encode())
            write_atomically(command.out / f"{stem}.md", _table(command, some).encode())
    text = _table(command, [rows[name] for name in order if name in rows])
    write_atomically(command.out / f"{stem}.md", text.encode())
    say(text)
    old = sum(rows[entry.name].versions != versions[entry.name] for entry in wanted)
    if old:
        say(f"{old} rows are of other files of lap_jax or of the benchmark: --again does them too")
    return text


def chosen(known: Sequence[Entry], patterns: Sequence[str]) -> list[Entry]:
    """Return the entries that a pattern matches, all without one.

    Raises:
      ValueError: for a pattern that matches none.
    """
    for pattern in patterns:
        if not any(_matches(entry, pattern) for entry in known):
            raise ValueError(f"--only: no row matches {pattern!r}; see --list")
    if not patterns:
        return list(known)
    return [entry for entry in known if any(_matches(entry, pattern) for pattern in patterns)]


def _done(command: Models, entry: Entry, versions: dict[str, str], rows: dict[str, Any]) -> Any:
    if command.shrink:
        return shrunk(entry, versions, command.limit)
    plain = None
    if entry.dtype != "float32":
        plain = rows.get(f"{entry.library}/{entry.model}/float32")
    return found(entry, versions, command.oracle, command.limit, plain)


def _table(command: Models, rows: Sequence[Any]) -> str:
    return shrunk_table(rows) if command.shrink else table(rows)


def is_done(row: Row | Shrunk | None, entry: Entry, versions: dict[str, str]) -> bool:
    """Return whether a row says all that can be said of an entry, by these packages.

    It stays where lap_jax or the benchmark has changed since, and says of which files it is.
    """
    if row is None or row.missing != missing(entry):
        return False
    return all(row.versions.get(name) == versions[name] for name in versions if name not in OWN)


def versions_of(entry: Entry) -> dict[str, str]:
    """Return the versions of other people's packages that a row depends on."""
    own = {}
    if entry.folder:
        own[entry.library] = _commit(entry.folder)
    elif not missing(entry) and entry.package:
        own[entry.library] = importlib.metadata.version(entry.library)
    return own | {"jax": jax.__version__}


def digest_of(folder: Path) -> str:
    """Return a short digest of the Python files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _key(row: Row | Shrunk) -> str:
    return f"{row.library}/{row.model}/{row.dtype}"


def _matches(entry: Entry, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(entry.name, end) for end in (pattern, f"{pattern}/*"))


def _listed(entry: Entry) -> str:
    absent = missing(entry)
    return entry.name + (f" ({absent})" if absent else "")


def _said(row: Row | Shrunk) -> str:
    if row.missing or row.error:
        return row.missing or row.error
    if isinstance(row, Shrunk):
        return (
            f"{row.parameters} parameters, {row.neurons} and {row.weights} left, difference "
            f"{row.difference:.1e}, {row.seconds:.1f} s"
        )
    edges = f"{row.agree}/{row.edges - row.stopped} edges agree" if row.edges else "not checked"
    edges = "the graph of float32" if row.same else edges
    lost = f", {len(row.lost)} kernels lost" if row.lost else ""
    return (
        f"{row.kernels} kernels{lost}, {len(row.barriers)} barriers, {edges}, "
        f"{row.seconds:.1f} s, the oracle {row.oracle:.1f} s"
    )


def _commit(folder: str) -> str:
    try:
        return subprocess.run(
            ["git", "-C", folder, "rev-parse", "--short=8", "HEAD"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"

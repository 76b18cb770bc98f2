"""How far a sweep is: its plan and its progress as two small files in its folder."""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.files import write_atomically
from experiments.running.progress import clock
from experiments.store import ResultsError, Store
from experiments.trial import Trial

STALE = 120.0
"""Seconds without news after which a process counts as stopped, unless it is seen to run."""


def write_plan(folder: Path, trials: Sequence[Trial]) -> None:
    """Write down which trials a sweep wants; those of earlier commands stay wanted."""
    wanted = dict.fromkeys([*_plan(folder), *trials])
    content = json.dumps([asdict(trial) for trial in wanted])
    write_atomically(folder / "sweep.json", content.encode())


def write_progress(folder: Path, done: int, total: int, started: float) -> None:
    """Write down how many steps of single networks this process has done, of how many."""
    who = f"{socket.gethostname()}-{os.getpid()}"
    news = {"done": done, "total": total, "started": started, "updated": time.time()}
    (folder / "progress").mkdir(exist_ok=True)
    write_atomically(folder / "progress" / f"{who}.json", json.dumps(news).encode())


def status(folder: Path, last: int = 5) -> str:
    """Return how far the sweep in a folder is: cells, steps, ETA, and the latest results.

    It only reads, and says what it can where the plan or the progress is missing.

    Raises:
      ResultsError: if the folder holds no sweep, or one of another version.
    """
    stored = (folder / "results.sqlite").exists()
    results, plan = Store(folder).load() if stored else [], _plan(folder)
    if not stored and not plan:
        raise ResultsError(f"no sweep in {folder}: it holds no plan and no results")
    wanted = plan or [result.trial for result in results]
    done = {result.trial for result in results}
    cells = f"{sum(trial in done for trial in wanted)} of {len(wanted)} cells done"
    lines = [cells if plan else f"{cells}; no plan says whether more are wanted"]
    for way, count in Counter(trial.way for trial in wanted).items():
        finished = sum(trial in done for trial in wanted if trial.way == way)
        lines.append(f"  {way}: {finished} of {count}")
    # Processes of earlier commands, which ended, say nothing beside those at work.
    every = _progress(folder)
    at_work = {name: news for name, news in every.items() if _silence(news) <= STALE}
    newest = dict(list(every.items())[-1:])
    for name, news in (at_work or newest).items():
        lines.append(f"process {name}: {_told(name, news)}")
    for result in results[-last:]:
        trial = result.trial
        lines.append(
            f"seed {trial.seed} {trial.way} at {result.left}: test error "
            f"{result.pruned.test_error:.2%} pruned, {result.retrained.test_error:.2%} retrained"
        )
    return "\n".join(lines)


def _told(name: str, news: dict[str, Any]) -> str:
    done, total = news["done"], news["total"]
    steps = f"{done:,} of {total:,} steps"
    if done >= total:
        return f"{steps}, finished"
    if _silence(news) > STALE:
        state = {True: "still there", False: "stopped", None: "stopped or stuck"}[_runs(name)]
        return f"{steps}, {state}: no news for {clock(_silence(news))}"
    if not done:
        return f"{steps}, starting"
    spent = news["updated"] - news["started"]
    return f"{steps}, ETA {clock(spent / done * (total - done))}"


def _silence(news: dict[str, Any]) -> float:
    return time.time() - news["updated"]


def _runs(name: str) -> bool | None:
    """Return whether a process is there; None where it is another machine's."""
    host, _, pid = name.rpartition("-")
    if host != socket.gethostname():
        return None
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def _plan(folder: Path) -> list[Trial]:
    path = folder / "sweep.json"
    try:
        return [Trial(**each) for each in json.loads(path.read_text())] if path.exists() else []
    except (TypeError, ValueError) as error:
        raise ResultsError(
            f"{path} was written by another version ({error}): use that one, or name another folder"
        ) from None


def _progress(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what each process last said, the newest last; what cannot be read is left out."""
    found = {}
    for path in folder.glob("progress/*.json"):
        with suppress(ValueError):
            found[path.stem] = json.loads(path.read_text())
    return dict(sorted(found.items(), key=lambda item: item[1]["updated"]))

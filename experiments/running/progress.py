"""Progress of long work: a bar with an ETA on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tick = Callable[[int], None]
SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(total: int, unit: str) -> Iterator[tuple[Tick, Callable[[str], None]]]:
    """Yield ``tick(count)``, to tell that work is done, and ``say(text)``, to print beside the bar.

    Args:
      total: how many units of work there are.
      unit: their name in the plural.
    """
    if sys.stdout.isatty():
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        )
        with Progress(*columns) as bar:
            task = bar.add_task("", total=total)
            yield lambda count: bar.advance(task, count), lambda text: bar.console.print(text)
        return

    start = last = time.monotonic()
    done = 0

    def tick(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            left = (now - start) / done * (total - done)
            print(f"{done:,} of {total:,} {unit}, ETA {clock(left)}", flush=True)

    yield tick, lambda text: print(text, flush=True)


def clock(seconds: float) -> str:
    """Write a time as hours, minutes and seconds; less than none, of work done twice, is none."""
    minutes, seconds = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"

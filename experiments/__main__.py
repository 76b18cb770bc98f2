"""Command line: run, paper, show, plot, status, prepare."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments.cli.commands import BadFlag, Paper, Plot, Prepare, Run, Show, Status
from experiments.cli.work import run, stored, work
from experiments.data import DataError, prepare
from experiments.reporting import report
from experiments.running.status import status
from experiments.store import ResultsError
from lap_jax import PruningError

INTERRUPTED = 128 + 2
"""Exit status of a process that SIGINT ends."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    command = tyro.cli(
        Run | Paper | Show | Plot | Status | Prepare, prog="python -m experiments", args=arguments
    )
    try:
        match command:
            case Run():
                run(command)
            case Paper():
                work(command.runs(), command.out or Path("results") / command.target)
            case Show():
                # Aligned for people; Markdown for files and programs.
                wide = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
                print(report.text(stored(command.folder), wide))
            case Plot():
                print(report.write(stored(command.folder), command.folder))
            case Status():
                if not command.folder.is_dir():
                    raise BadFlag(f"no sweep in {command.folder}: there is no such folder")
                print(status(command.folder))
            case Prepare():
                print(
                    prepare(command.dataset, command.files, command.data_dir,
                            accept_mismatch=command.accept_mismatch)
                )  # fmt: skip
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (BadFlag, DataError, PruningError, ResultsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def interrupted(*_: object) -> None:
    """End the process, on SIGINT.

    At once, because whatever is on disk is whole at every moment. Python's own way, an exception,
    is lost where it is raised inside a callback, and takes the interpreter down around XLA's
    threads, which crash.
    """
    shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # the cursor, which a bar hides
    text = f"{shown}\ninterrupted: the same command goes on where this one stopped\n"
    os.write(2, text.encode())  # not print: the signal may have come in the middle of one
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, interrupted)
    sys.exit(main())

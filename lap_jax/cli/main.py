"""The entry point ``lap-jax``: flags in, tables or JSON out, an exit status.

0: fine; 1: `diff` found a difference, or there is a warning and ``--strict``; 2: a flag, a file or
a model is of no use, in one line on stderr; 130: interrupted.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lap_jax.cli.commands import Command

FINE, DIFFERS, BAD, INTERRUPTED = 0, 1, 2, 130

MISSING = "lap-jax needs tyro, which is missing: pip install 'lap_jax[cli]'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    try:
        import tyro  # noqa: F401
    except ImportError:
        print(f"error: {MISSING}", file=sys.stderr)
        return BAD
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        status = _run(_parsed(given), shlex.join(["lap-jax", *given]))
        sys.stdout.flush()
    except SystemExit as ended:
        return FINE if not ended.code else BAD
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    return status


def _parsed(arguments: Sequence[str]) -> Command:
    """Return the command that the arguments ask for; a wrong one ends in one line."""
    import tyro

    from lap_jax.cli.commands import Diff, Inspect, Prune, Shrink

    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            commands: Any = Inspect | Prune | Shrink | Diff
            found: Command = tyro.cli(
                commands,
                prog="lap-jax",
                description="Inspect, prune, shrink and compare checkpoints of JAX models. Exit "
                "status: 0 fine; 1 a difference, or a warning with --strict; 2 bad input. "
                "--tyro-print-completion bash prints a completion script.",
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
            return found
    except SystemExit as ended:
        if ended.code:
            print(f"error: {_one_line(told.getvalue())}", file=sys.stderr)
        raise


def _one_line(box: str) -> str:
    """Return the text of tyro's box."""
    lines = [line.strip(" │╭╰╮╯─") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    return re.sub(r"\s+", " ", " ".join(filter(None, lines[1:]))) or "wrong arguments"


def _run(command: Command, line: str) -> int:
    from lap_jax import PruningError
    from lap_jax.cli.errors import BadInput
    from lap_jax.cli.working import run

    try:
        return run(command, line)
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception as error:
        if command.debug:
            traceback.print_exc()
        text = " ".join(str(error).split())
        known = isinstance(error, (BadInput, PruningError, OSError))
        print(f"error: {text if known else f'{type(error).__name__}: {text}'}", file=sys.stderr)
        return BAD

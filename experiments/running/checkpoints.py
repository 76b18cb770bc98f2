"""Checkpoints of work in progress, with orbax: written beside, then renamed."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

logging.getLogger("absl").setLevel(logging.ERROR)


def save(folder: Path, step: int, state: Any, notes: Any) -> None:
    """Write a state and then drop the one before it; whoever dies here leaves one of the two.

    Args:
      folder: of the checkpoints of one piece of work.
      step: number of steps done; larger than that of the checkpoint that is there.
      state: a pytree of arrays.
      notes: whatever JSON holds.
    """
    items = ocp.args.Composite(state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(notes))
    with _manager(folder) as manager:
        manager.save(step, args=items)
        manager.wait_until_finished()


def restore(folder: Path, like: Any) -> tuple[int, Any, Any] | None:
    """Return step, state and notes of the last whole checkpoint, or None if there is none.

    Args:
      folder: of the checkpoints of one piece of work.
      like: a state of the same structure, shapes and dtypes; arrays come back where its lie.
    """
    if not folder.is_dir():
        return None
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    with _manager(folder) as manager:
        step = manager.latest_step()
        if step is None:
            return None
        items = manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(shapes), notes=ocp.args.JsonRestore()
            ),
        )
    return step, items.state, items.notes


def drop(folder: Path) -> None:
    """Remove the checkpoints of a piece of work that is done."""
    shutil.rmtree(folder, ignore_errors=True)


def _manager(folder: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    return ocp.CheckpointManager(folder.resolve(), options=options)

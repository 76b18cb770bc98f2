"""Checkpoints of work in progress, with orbax: written beside, then renamed, read if undamaged."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

logging.getLogger("absl").setLevel(logging.CRITICAL)  # what goes wrong is raised, too

KEPT = 2
"""Checkpoints of a piece of work that are kept, should the last be damaged."""


def save(folder: Path, step: int, state: Any, notes: Any) -> None:
    """Write a state and then drop the one before the last; whoever dies here leaves a whole one.

    Args:
      folder: of the checkpoints of one piece of work.
      step: number of steps done; larger than that of the checkpoints that are there.
      state: a pytree of arrays.
      notes: whatever JSON holds.

    Raises:
      OSError: if the disk is full.
    """
    told = {"notes": notes, "sha256": _digest(state, notes)}
    items = ocp.args.Composite(state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(told))
    try:
        with _manager(folder) as manager:
            manager.save(step, args=items)
            manager.wait_until_finished()
    except ValueError as error:  # tensorstore's, for anything
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        for rest in folder.glob("*-tmp"):
            shutil.rmtree(rest, ignore_errors=True)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from None


def restore(
    folder: Path, like: Any, set_aside: Callable[[Path, Exception], None]
) -> tuple[int, Any, Any] | None:
    """Return step, state and notes of the last undamaged checkpoint, or None if there is none.

    Args:
      folder: of the checkpoints of one piece of work.
      like: a state of the same structure, shapes and dtypes; arrays come back where its lie.
      set_aside: called with the folder of each damaged checkpoint, and why; moves it away.
    """
    if not folder.is_dir():
        return None
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    items = ocp.args.Composite(state=ocp.args.StandardRestore(shapes), notes=ocp.args.JsonRestore())
    with _manager(folder) as manager:
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                found = manager.restore(step, args=items)
                told = found.notes
                if told["sha256"] != _digest(found.state, told["notes"]):
                    raise ValueError("its checksum does not match what it holds")
            except (MemoryError, PermissionError):
                raise
            except Exception as error:  # orbax and tensorstore raise of every kind
                set_aside(folder / str(step), error)
            else:
                return step, found.state, told["notes"]
    return None


def drop(folder: Path) -> None:
    """Remove the checkpoints of a piece of work that is done."""
    shutil.rmtree(folder, ignore_errors=True)


def _digest(state: Any, notes: Any) -> str:
    """Return the SHA-256 of everything that comes back, whatever files it lies in."""
    whole = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    for leaf in jax.tree.leaves(state):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)
        array = np.asarray(jax.device_get(jax.random.key_data(leaf) if is_key else leaf))
        whole.update(f"{array.dtype.name} {array.shape}".encode())
        whole.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return whole.hexdigest()


def _manager(folder: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, enable_async_checkpointing=False)
    return ocp.CheckpointManager(folder.resolve(), options=options)

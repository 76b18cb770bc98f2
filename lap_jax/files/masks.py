"""Masks on disk: one safetensors file, a bit per weight, loaded without executing anything."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.files.container import (
    check_structure,
    check_type,
    damaged,
    is_shape,
    parsed,
    read,
    structure_of,
    write,
)
from lap_jax.paths import checked_mask, leaves_by_path, map_by_path

_FORMAT = "lap_jax masks 2"


def save_masks(
    path: str | os.PathLike[str],
    masks: Any,
    params: Any,
    *,
    method: str | None = None,
    sparsity: Any | None = None,
) -> None:
    """Write masks to a safetensors file.

    Each array mask is stored under its parameter's path as ``ceil(size / 8)`` bytes, row-major,
    first weight in the highest bit; a scalar mask as a scalar. The metadata holds the method, the
    sparsity, the paths and shapes of ``params`` with their SHA-256, and ``sha256``, that of the
    whole file with zeros in the place of its 64 digits: whatever is damaged is noticed. The file
    appears whole or not at all; where ``path`` is a link, what it points to is replaced.

    Args:
      path: the file; its folder must exist.
      masks: as from `lookahead_masks`; a mask that is None or missing keeps its parameter.
      params: the parameters that the masks belong to; only paths and shapes are read.
      method: what made the masks, kept as a note.
      sparsity: a number, or a sequence or mapping of numbers, kept as a note.

    Raises:
      PruningError: if masks and params differ in paths or shapes, if there is no mask, or if a
        parameter is called ``__metadata__``, as a part of the file is.
      OSError: if the file cannot be written.
    """
    structure = structure_of(params)
    found = checked_masks(masks, structure)
    if not found:
        raise PruningError("masks holds no mask: nothing would be saved; expected one at least")
    tensors = {
        name: np.packbits(mask.reshape(-1)) if mask.ndim else mask for name, mask in found.items()
    }
    metadata = {
        "format": _FORMAT,
        "method": json.dumps(method),
        "sparsity": json.dumps(_plain(sparsity)),
        "structure": json.dumps(structure),
        "structure_sha256": _checksum(structure),
    }
    write(path, tensors, metadata)


def load_masks(path: str | os.PathLike[str], params: Any) -> Any:
    """Read masks back into a tree of the structure of ``params``.

    Args:
      path: a file from `save_masks`. Files of format "lap_jax masks 1" hold no checksum and are
        refused: load them with the version that wrote them and save them again.
      params: parameters of the same paths and shapes as those that the masks were saved with, in
        any kind of tree.

    Returns:
      Masks as `lookahead_masks` returned them: bool, a scalar True where there was none.

    Raises:
      PruningError: if the file is no mask file, is damaged, or belongs to another model: the
        message names the first parameter that differs.
      OSError: if the file cannot be read.
    """
    tensors, metadata = read(path, _FORMAT)
    here = structure_of(params)
    check_structure(path, _structure(path, metadata), here)
    masks = {}
    for name, stored in tensors.items():
        size = int(np.prod(here.get(name, ()), dtype=np.int64))
        fits = {((), np.bool_), ((-(-size // 8),), np.uint8)}
        if name not in here or (stored.shape, stored.dtype.type) not in fits:
            raise damaged(path, f"mask {name!r} does not fit")
        bits = np.unpackbits(stored, count=size).reshape(here[name]) if stored.ndim else stored
        masks[name] = jnp.asarray(bits.astype(bool))
    return map_by_path(lambda name, _: masks.get(name, jnp.bool_(True)), params)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a mask file says of itself.

    Returns:
      ``method``, ``sparsity`` (both as given to `save_masks`), ``structure`` (``{path: shape}`` of
      the parameters) and ``structure_sha256``.

    Raises:
      PruningError: if the file is no mask file or is damaged.
      OSError: if the file cannot be read.
    """
    metadata = read(path, _FORMAT).metadata
    structure = _structure(path, metadata)
    notes = {
        name: parsed(path, "metadata", f'{{"it": {metadata.get(name)}}}')["it"]
        for name in ("method", "sparsity")
    }
    return notes | {"structure": structure, "structure_sha256": _checksum(structure)}


def checked_masks(masks: Any, structure: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Return masks by path, bool, on the host.

    Raises:
      PruningError: if they do not fit the structure.
    """
    found = {}
    for name, mask in leaves_by_path(masks).items():
        if name not in structure:
            raise PruningError(f"mask {name!r} has no parameter: save it with its own parameters")
        check_type(name, np.dtype(bool))
        found[name] = np.asarray(jax.device_get(checked_mask(f"mask {name!r}", mask)))
        if found[name].ndim and list(found[name].shape) != structure[name]:
            raise PruningError(
                f"mask {name!r} has shape {found[name].shape}, its parameter "
                f"{tuple(structure[name])}"
            )
    return found


def _structure(path: str | os.PathLike[str], metadata: dict[str, str]) -> dict[str, list[int]]:
    structure = parsed(path, "structure", metadata.get("structure", ""))
    if not all(map(is_shape, structure.values())):
        raise damaged(path, "its structure is not one of shapes")
    return structure


def _checksum(structure: dict[str, list[int]]) -> str:
    return hashlib.sha256(json.dumps(structure, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if np.ndim(value):
        return [_plain(entry) for entry in value]
    return float(value)

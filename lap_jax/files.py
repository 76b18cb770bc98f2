"""Masks on disk: one safetensors file, a bit per weight, loaded without executing anything."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lap_jax.errors import PruningError
from lap_jax.paths import leaves_by_path, map_by_path, shapes_by_path

_FORMAT = "lap_jax masks 1"


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
    first weight in the highest bit; scalar masks are not stored. The metadata holds the method, the
    sparsity, and the paths and shapes of ``params`` with their SHA-256. The file appears whole or
    not at all.

    Args:
      path: the file; its folder must exist.
      masks: as from `lookahead_masks`.
      params: the parameters that the masks belong to; only paths and shapes are read.
      method: what made the masks, kept as a note.
      sparsity: a number, or a sequence or mapping of numbers, kept as a note.

    Raises:
      PruningError: if masks and params differ in paths or shapes.
      OSError: if the file cannot be written.
    """
    structure = _structure(params)
    tensors = {}
    for name, mask in jax.device_get(leaves_by_path(masks)).items():
        if name not in structure:
            raise PruningError(f"mask {name!r} has no parameter: save it with its own parameters")
        if np.ndim(mask) == 0:
            continue
        if list(mask.shape) != structure[name]:
            raise PruningError(
                f"mask {name!r} has shape {mask.shape}, its parameter {tuple(structure[name])}"
            )
        tensors[name] = np.packbits(mask.reshape(-1).astype(bool))
    metadata = {
        "format": _FORMAT,
        "method": json.dumps(method),
        "sparsity": json.dumps(_plain(sparsity)),
        "structure": json.dumps(structure),
        "structure_sha256": _checksum(structure),
    }
    write_atomically(Path(path), save(tensors, metadata))


def load_masks(path: str | os.PathLike[str], params: Any) -> Any:
    """Read masks back into a tree of the structure of ``params``.

    Args:
      path: a file from `save_masks`.
      params: parameters of the same paths and shapes as those that the masks were saved with, in
        any kind of tree.

    Returns:
      Masks as `lookahead_masks` returned them.

    Raises:
      PruningError: if the file is no mask file, is damaged, or belongs to another model: the
        message names the first parameter that differs.
      OSError: if the file cannot be read.
    """
    saved, here = read_metadata(path)["structure"], _structure(params)
    for name in dict.fromkeys([*saved, *here]):
        if saved.get(name) != here.get(name):
            raise PruningError(
                f"the masks in {os.fspath(path)!r} belong to another model: parameter {name!r} is "
                f"{_described(saved, name)} there and {_described(here, name)} here"
            )
    masks = {}
    with _opened(path) as file:
        for name in file.keys():
            if name not in here or file.get_slice(name).get_shape() != [-(-_size(here[name]) // 8)]:
                raise PruningError(f"{os.fspath(path)!r} is damaged: mask {name!r} does not fit")
            bits = np.unpackbits(file.get_tensor(name), count=_size(here[name]))
            masks[name] = jnp.asarray(bits.reshape(here[name]).astype(bool))
    return map_by_path(lambda name, _: masks.get(name, jnp.bool_(True)), params)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a mask file says of itself.

    Returns:
      ``method``, ``sparsity`` (both as given to `save_masks`), ``structure`` (``{path: shape}`` of
      the parameters) and ``structure_sha256``.

    Raises:
      PruningError: if the file is no mask file or is damaged.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != _FORMAT:
        raise PruningError(
            f"{os.fspath(path)!r} is not a mask file: its format is "
            f"{metadata.get('format')!r}, expected {_FORMAT!r}"
        )
    try:
        found = {name: json.loads(metadata[name]) for name in ("method", "sparsity", "structure")}
        found["structure_sha256"] = metadata["structure_sha256"]
    except (KeyError, json.JSONDecodeError) as error:
        raise PruningError(f"{os.fspath(path)!r} is damaged: its metadata lacks {error}") from None
    if _checksum(found["structure"]) != found["structure_sha256"]:
        raise PruningError(f"{os.fspath(path)!r} is damaged: its structure checksum does not match")
    return found


def _opened(path: str | os.PathLike[str]) -> safe_open:
    try:
        return safe_open(os.fspath(path), framework="numpy")
    except SafetensorError as error:
        raise PruningError(
            f"{os.fspath(path)!r} is not a safetensors file or is cut short: {error}"
        ) from None


def _structure(params: Any) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in sorted(shapes_by_path(params).items())}


def _checksum(structure: dict[str, list[int]]) -> str:
    return hashlib.sha256(json.dumps(structure, sort_keys=True).encode()).hexdigest()


def _described(structure: dict[str, list[int]], name: str) -> str:
    return f"of shape {tuple(structure[name])}" if name in structure else "missing"


def _size(shape: list[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if np.ndim(value):
        return [_plain(entry) for entry in value]
    return float(value)


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the file, then rename: a reader never sees half a file."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

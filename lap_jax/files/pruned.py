"""Pruned networks on disk: the kept weights and where they are, in one safetensors file."""

from __future__ import annotations

import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.files.coding import Code, decode, encode
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
from lap_jax.files.masks import checked_masks
from lap_jax.paths import is_array, leaves_by_path, map_by_path

_FORMAT = "lap_jax pruned 1"
_MASKS = "__masks__"


def save_pruned(path: str | os.PathLike[str], params: Any, masks: Any = None) -> None:
    """Write parameters and their masks to one safetensors file: kept weights alone.

    It takes about as many bytes as the kept weights have, and as many bits as it takes to tell
    where they are: the entropy of the masks, within 5%. A parameter without a mask is stored as it
    is, under its path, so that a tree without masks (a small network, say) is an ordinary file of
    parameters. Of one with a mask, the tensor of that name holds the kept weights, ``[kept]``,
    row-major, and what tells where they are is a part of the tensor ``__masks__``, uint8: the
    metadata ``masks`` is a JSON object of ``[shape, k, pruned, bytes]`` by path, parts in that
    order, and a part is ``k`` bit planes and a unary part of the gaps between the kept weights, or,
    where ``pruned``, the pruned ones (Rice codes; `lap_jax/files/coding.py` says it exactly). A
    scalar False is ``[shape]`` alone. Metadata ``sha256``, links and failures are as in
    `save_masks`.

    Args:
      path: the file; its folder must exist.
      params: a tree of arrays or numbers of any type that safetensors knows; pruned weights are
        zero (`apply_masks`).
      masks: as from `lookahead_masks`; a mask that is None or missing keeps its parameter.

    Raises:
      PruningError: if masks and params differ in paths or shapes, a pruned weight is not zero, a
        parameter is of another type (random keys, 4-bit numbers), or is called ``__metadata__`` or
        ``__masks__``, as parts of the file are.
      OSError: if the file cannot be written.

    Example:
      >>> import os, tempfile
      >>> params, masks = {"kernel": jnp.array([0.0, 2.0])}, {"kernel": jnp.array([False, True])}
      >>> path = os.path.join(tempfile.mkdtemp(), "network.safetensors")
      >>> save_pruned(path, params, masks)
      >>> load_pruned(path, params)[1]["kernel"].tolist()
      [False, True]
    """
    structure = structure_of(params)
    by_path = checked_masks(masks, structure)
    tensors: dict[str, np.ndarray] = {}
    notes: dict[str, list[Any]] = {}
    codes: list[np.ndarray] = []
    for name, leaf in leaves_by_path(params).items():
        if name not in structure:
            continue  # a function
        if name == _MASKS:
            raise PruningError(f"a parameter is called {name!r}, as a part of the file: rename it")
        check_type(name, leaf.dtype if is_array(leaf) else np.asarray(leaf).dtype)
        array, mask = np.asarray(jax.device_get(leaf)), by_path.get(name, np.asarray(True))
        tensors[name] = array
        if mask.ndim == 0 and mask:
            continue
        pruned = np.count_nonzero(array[~mask])
        if pruned:
            raise PruningError(
                f"{name!r} has {pruned} pruned weights that are not zero: call apply_masks first"
            )
        tensors[name] = array[mask].reshape(-1)
        notes[name] = [structure[name]]
        if mask.ndim:
            code = encode(mask)
            codes.append(code.content)
            notes[name] += [code.k, int(code.pruned), code.content.size]
    metadata = {"format": _FORMAT}
    if notes:
        tensors[_MASKS] = np.concatenate([*codes, np.zeros(0, np.uint8)])
        metadata["masks"] = json.dumps(notes, separators=(",", ":"))
    write(path, tensors, metadata)


def load_pruned(path: str | os.PathLike[str], params: Any) -> tuple[Any, Any]:
    """Read parameters and masks back into trees of the structure of ``params``.

    Args:
      path: a file from `save_pruned`.
      params: parameters of the same paths and shapes, in any kind of tree; their shapes are enough,
        as from `jax.eval_shape`. A function among them is returned as it is.

    Returns:
      ``(params, masks)``. Parameters have the types and, bit by bit, the values that were saved;
      pruned weights are zero (+0, where it was -0). They are NumPy arrays where JAX would not hold
      them as they are: 64 bits, unless they are enabled. Masks are bool, a scalar True where there
      was none.

    Raises:
      PruningError: if the file is none of `save_pruned`, is damaged, or belongs to another model:
        the message names the first parameter that differs.
      OSError: if the file cannot be read.
    """
    tensors, metadata = read(path, _FORMAT)
    notes = parsed(path, "masks", metadata.get("masks", "{}"))
    codes = tensors.pop(_MASKS, np.zeros(0, np.uint8))
    sound = notes.keys() <= tensors.keys() and all(map(_is_note, notes.values()))
    if not sound or codes.dtype != np.uint8 or codes.ndim != 1:
        raise damaged(path, "its masks are none of its tensors'")
    saved = {name: list(array.shape) for name, array in tensors.items()}
    saved |= {name: note[0] for name, note in notes.items()}
    check_structure(path, dict(sorted(saved.items())), structure_of(params))
    masks = {}
    for name, (shape, *code) in notes.items():
        part, codes = np.split(codes, [code[-1] if code else 0])
        mask = _mask(path, name, shape, code, part, tensors[name].shape)
        whole = np.zeros(shape, tensors[name].dtype)
        if mask.ndim:
            whole[mask] = tensors[name]
        tensors[name], masks[name] = whole, jnp.asarray(mask)
    if codes.size:
        raise damaged(path, "it holds more masks than it names")
    return (
        map_by_path(lambda name, leaf: _on_device(tensors[name]) if name in tensors else leaf,
                    params),
        map_by_path(lambda name, _: masks.get(name, jnp.bool_(True)), params),
    )  # fmt: skip


def _is_note(note: Any) -> bool:
    if not isinstance(note, list) or len(note) not in (1, 4):
        return False
    return is_shape(note[0]) and is_shape(note[1:])  # whole numbers, none negative


def _mask(
    path: str | os.PathLike[str], name: str, shape: list[int], code: list[int], part: np.ndarray,
    kept: tuple[int, ...],
) -> np.ndarray:  # fmt: skip
    """Return a mask, bool, of a parameter whose kept weights have the shape ``kept``."""
    try:
        if len(kept) != 1 or (not code and kept != (0,)):
            raise PruningError(f"its kept weights have the shape {kept}")
        if not code:
            return np.asarray(False)
        size = int(np.prod(shape, dtype=np.int64))
        return decode(Code(code[0], bool(code[1]), part), size, kept[0]).reshape(shape)
    except ValueError as error:
        raise damaged(path, f"the mask of {name!r}: {error}") from None


def _on_device(array: np.ndarray) -> Any:
    """Return an array as JAX's, where that keeps its type."""
    same = jax.dtypes.canonicalize_dtype(array.dtype) == array.dtype
    return jnp.asarray(array) if same else array

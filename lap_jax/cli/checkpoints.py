"""Checkpoints as named arrays: safetensors, msgpack of Flax, folders of Orbax.

What a file is, its content says and not its name; what is written, the name says: a file that ends
in ``.safetensors`` or ``.msgpack``, and a folder of Orbax otherwise. Reading executes nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors.numpy import save

from lap_jax import PruningError, load_masks, load_pruned, read_metadata
from lap_jax.cli.errors import BadInput

Form = Literal["safetensors", "pruned", "masks", "msgpack", "orbax"]

_TYPES = {
    **{"BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16"},
    **{"U32": "uint32", "I32": "int32", "U64": "uint64", "I64": "int64", "C64": "complex64"},
    **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
}
"""What JAX calls the types of safetensors."""


class Checkpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes:
      path: where it is; of several steps in a folder, the last.
      form: "safetensors": tensors by name; "pruned" and "masks": files of `lap_jax.save_pruned` and
        `lap_jax.save_masks`; "msgpack": of ``flax.serialization``; "orbax": a folder.
      arrays: by name, the parts of a nested one joined by slashes.
      notes: texts that a safetensors file holds beside its tensors.
    """

    path: Path
    form: Form
    arrays: dict[str, np.ndarray]
    notes: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files if file.is_file())


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
      BadInput: if it is none, is damaged, or the package that reads it is missing.
      OSError: if it cannot be read.
    """
    if not path.exists():
        raise BadInput(f"{str(path)!r} is not there: expected a checkpoint, a file or a folder")
    if path.is_dir():
        place = _item_of(path)
        return Checkpoint(place, "orbax", _of_orbax(place), {})
    with open(path, "rb") as file:
        start = file.read(9)
    # A safetensors file starts with the length of its header, which is a JSON object.
    if len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 2**40:
        return _of_safetensors(path)
    return Checkpoint(path, "msgpack", _of_msgpack(path), {})


def write(path: Path, arrays: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> None:
    """Write a checkpoint, whole or not at all, in the form that its name says.

    Args:
      path: ends in ``.safetensors`` or ``.msgpack``, or is a folder for Orbax.
      arrays: by name; parts between slashes become levels, where there are any.
      notes: texts, for a safetensors file.

    Raises:
      BadInput: if the form cannot hold them, or the package that writes it is missing.
      OSError: if it cannot be written.
    """
    form = form_of(path)
    if form == "safetensors":
        with _told(f"{str(path)!r} cannot be written as safetensors"):
            content = save(dict(arrays), dict(notes) or None)
        write_file(path, content)
    elif form == "msgpack":
        with _told(f"{str(path)!r} cannot be written as msgpack"):
            content = _flax().msgpack_serialize(nested(arrays))
        write_file(path, content)
    else:
        orbax = _package("orbax.checkpoint", "orbax-checkpoint", "an Orbax checkpoint")
        with _told(f"{str(path)!r} cannot be written by Orbax"), _quiet():
            _write_folder(path.absolute(), orbax, nested(arrays))


def form_of(path: Path) -> Form:
    """Return the form in which a checkpoint of that name is written.

    Raises:
      BadInput: for a name that ends like a file of another kind.
    """
    forms: dict[str, Form] = {".safetensors": "safetensors", ".msgpack": "msgpack"}
    if path.suffix in forms:
        return forms[path.suffix]
    if path.suffix and not path.is_dir():
        raise BadInput(
            f"{str(path)!r} ends in {path.suffix!r}: expected '.safetensors', '.msgpack', or no "
            "ending, for a folder of Orbax"
        )
    return "orbax"


def write_file(path: Path, content: bytes) -> None:
    """Write beside the file, then rename: nobody sees half a file; a link stays."""
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:64]}.{secrets.token_hex(8)}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            error.filename = str(path)  # a full disk names no file
        raise


def _write_folder(path: Path, orbax: Any, tree: Any) -> None:
    """Write a folder beside the one that it replaces, then swap the two."""
    # In a folder of its own, because of a failure Orbax leaves parts.
    place = Path(tempfile.mkdtemp(prefix=f".{path.name[:64]}.", dir=path.parent))
    new, old = place / "new", place / "old"
    try:
        with contextlib.closing(orbax.StandardCheckpointer()) as writer:
            writer.save(new, tree)
        if path.exists():
            path.rename(old)
        new.rename(path)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``{"a": {"b": x}}`` of ``{"a/b": x}``.

    Raises:
      BadInput: if a name is the beginning of another.
    """
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, last = name.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise BadInput(f"{name!r} lies inside of an array: expected names of a tree")
        if last in place:
            raise BadInput(f"{name!r} is an array and a folder of others: expected one of both")
        place[last] = array
    return tree


def flat(tree: Any) -> dict[str, Any]:
    """Return the leaves of a nested tree by name."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


# ---------------------------------------------------------------- the forms


def _of_safetensors(path: Path) -> Checkpoint:
    content = path.read_bytes()
    with _told(f"{str(path)!r} is no safetensors file, or is damaged or cut short"):
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        found = safetensors.deserialize(content)
    notes = header.get("__metadata__") or {}
    form = str(notes.get("format"))
    if form.startswith("lap_jax masks"):
        shapes = _shapes(read_metadata(path)["structure"])
        masks = {name: np.asarray(mask) for name, mask in load_masks(path, shapes).items()}
        return Checkpoint(path, "masks", masks, {})
    if form.startswith("lap_jax pruned"):
        with _told(f"{str(path)!r} is damaged"):
            shapes = {name: tensor["shape"] for name, tensor in found if name != "__masks__"}
            coded = json.loads(notes.get("masks", "{}"))
            shapes |= {name: note[0] for name, note in coded.items()}
        arrays, _ = load_pruned(path, _shapes(shapes))
        return Checkpoint(path, "pruned", {k: np.asarray(v) for k, v in arrays.items()}, {})
    arrays = {}
    for name, tensor in found:
        if tensor["dtype"] not in _TYPES:
            raise BadInput(
                f"{name!r} in {str(path)!r} has the type {tensor['dtype']}: JAX has none"
            )
        array = np.frombuffer(tensor["data"], jnp.dtype(_TYPES[tensor["dtype"]]))
        arrays[name] = array.reshape(tensor["shape"])
    return Checkpoint(path, "safetensors", arrays, notes)


def _shapes(shapes: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(tuple(s), jnp.float32) for name, s in shapes.items()}


def _of_msgpack(path: Path) -> dict[str, np.ndarray]:
    content = path.read_bytes()
    flax = _flax()
    with _told(f"{str(path)!r} is neither a safetensors file nor one of flax.serialization"):
        tree = flax.msgpack_restore(content)
    if not isinstance(tree, dict):
        raise BadInput(f"{str(path)!r} holds {type(tree).__name__}: expected a tree of arrays")
    return _arrays(path, tree)


def _of_orbax(path: Path) -> dict[str, np.ndarray]:
    orbax = _package("orbax.checkpoint", "orbax-checkpoint", "a folder of Orbax")
    with _told(f"{str(path)!r} cannot be read by Orbax"), _quiet():
        reader = orbax.PyTreeCheckpointer()
        found = reader.metadata(path.absolute())
        # Before Orbax 0.10 the tree of the metadata stood alone.
        tree = found.item_metadata.tree if hasattr(found, "item_metadata") else found
        # On the host: the devices that it was saved on may be none of this machine.
        how = jax.tree.map(lambda _: orbax.RestoreArgs(restore_type=np.ndarray), tree)
        restored = reader.restore(path.absolute(), restore_args=how)
    return _arrays(path, restored)


def _item_of(folder: Path) -> Path:
    """Return the folder with Orbax's ``_METADATA``: of several steps, in the last."""
    if (folder / "_METADATA").exists():
        return folder
    inside = [each for each in folder.iterdir() if each.is_dir()]
    steps = [each for each in inside if each.name.isdecimal()]
    if steps:
        return _item_of(max(steps, key=lambda each: int(each.name)))
    items = [each for each in inside if (each / "_METADATA").exists()]
    if len(items) != 1:
        named = f"{len(items)} items ({', '.join(sorted(each.name for each in items))})"
        raise BadInput(
            f"the folder {str(folder)!r} holds {named if items else 'no checkpoint of Orbax'}: "
            "expected one with a file '_METADATA', or the last step's"
        )
    return items[0]


def _arrays(path: Path, tree: Any) -> dict[str, np.ndarray]:
    found = {}
    for name, leaf in flat(tree).items():
        if isinstance(leaf, (np.ndarray, np.generic, int, float, bool, complex, jax.Array)):
            found[name] = np.asarray(leaf)
    if not found:
        raise BadInput(f"{str(path)!r} holds no array")
    return found


def _flax() -> Any:
    return _package("flax.serialization", "flax", "a msgpack file")


def _package(module: str, name: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BadInput(f"{what} takes {name}, which is missing: pip install {name}") from error


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn whatever a reader of others raises into one line."""
    try:
        yield
    except (BadInput, PruningError, OSError):
        raise
    except Exception as error:
        raise BadInput(f"{what}: {type(error).__name__}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Orbax from logging."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)

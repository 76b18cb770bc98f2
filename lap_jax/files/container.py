"""Safetensors with a checksum: written whole or not at all, read as written or refused.

Such a file is an ordinary safetensors file, read by any of its readers. One entry of its metadata,
``sha256``, is the SHA-256 of the whole file, as 64 lower-case hexadecimal digits, with zeros in the
place of those digits. Metadata stand in alphabetical order, tensors by the size of their elements,
the largest first, then by name: the same content is the same file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, deserialize

from lap_jax.errors import PruningError
from lap_jax.paths import shapes_by_path

RESERVED = ("__metadata__", "__masks__")
"""Names that the formats use themselves."""

_CODES = {
    **{"bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16"},
    **{"uint32": "U32", "int32": "I32", "uint64": "U64", "int64": "I64", "complex64": "C64"},
    **{"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"},
    **{"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0"},
}
"""What safetensors calls the types of NumPy and ml_dtypes."""

_TYPES = {code: name for name, code in _CODES.items()}
_CHECKSUM = re.compile(rb'"sha256":"([0-9a-f]{64})"')  # no text holds it: its quotes are escaped
_ZEROS = b"0" * 64


class Content(NamedTuple):
    """What a file holds: arrays by name, and texts by name."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write a file; see the module for its form.

    Raises:
      PruningError: for a name or a type that safetensors does not know; nothing is written.
      OSError: if the file cannot be written; the one before it is left as it was.
    """
    entries: dict[str, Any] = {
        "__metadata__": dict(sorted({**metadata, "sha256": _ZEROS.decode()}.items()))
    }
    buffers, offset = [], 0
    for name, array in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        check_type(name, array.dtype)
        little = array.astype(array.dtype.newbyteorder("<")) if array.dtype.str[0] == ">" else array
        buffers.append(np.asarray(little, order="C").reshape(-1).view(np.uint8).data)
        place = [offset, offset := offset + array.nbytes]
        entries[name] = {
            "dtype": _CODES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": place,
        }
    try:
        header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise PruningError(f"a name is no text that a file can hold ({error}): rename it") from None
    header += b" " * (-len(header) % 8)
    start = len(header).to_bytes(8, "little") + header
    whole = hashlib.sha256(start)
    for buffer in buffers:
        whole.update(buffer)
    marked = b'"sha256":"%s"'
    start = start.replace(marked % _ZEROS, marked % whole.hexdigest().encode(), 1)
    write_atomically(Path(path), start, *buffers)


def check_type(name: str, dtype: Any) -> None:
    """Refuse an array that safetensors cannot hold as it is."""
    if name == "__metadata__":
        raise PruningError(
            "a parameter is called '__metadata__', which safetensors uses: rename it"
        )
    if str(np.dtype(dtype).name if isinstance(dtype, np.dtype) else dtype) not in _CODES:
        raise PruningError(
            f"{name!r} has the type {dtype}, which safetensors does not know: expected one of "
            f"{', '.join(_CODES)} (of random keys, save jax.random.key_data)"
        )


def read(path: str | os.PathLike[str], *formats: str) -> Content:
    """Read a file of one of the ``formats``, after comparing its checksum.

    Raises:
      PruningError: if it is none of them, or damaged anywhere.
      OSError: if it cannot be read.
    """
    shown, content = os.fspath(path), Path(path).read_bytes()
    try:
        found = deserialize(content)
    except SafetensorError as error:
        raise PruningError(
            f"{shown!r} is not a safetensors file, or is damaged or cut short: {error}"
        ) from None
    end = 8 + int.from_bytes(content[:8], "little")
    header = content[8:end]
    metadata = parsed(path, "header", header).get("__metadata__") or {}
    form = metadata.get("format")
    if form not in formats:
        old = str(form).startswith("lap_jax") and "sha256" not in metadata
        raise PruningError(
            f"{shown!r} is not a file of the kind asked for: its format is {form!r}, expected "
            f"{' or '.join(map(repr, formats))}"
            + "; it is from before files held a checksum: load it with the lap_jax that wrote it "
            "and save it with this one" * old
        )
    digests = _CHECKSUM.findall(header)
    whole = hashlib.sha256(content[:8])
    whole.update(_CHECKSUM.sub(b'"sha256":"%s"' % _ZEROS, header))
    whole.update(memoryview(content)[end:])
    if digests != [whole.hexdigest().encode()]:
        raise damaged(path, "its checksum does not match what it holds")
    tensors = {}
    for name, tensor in found:
        if tensor["dtype"] not in _TYPES:
            raise damaged(path, f"{name!r} has the unknown type {tensor['dtype']!r}")
        array = np.frombuffer(tensor["data"], jnp.dtype(_TYPES[tensor["dtype"]]))
        tensors[name] = array.reshape(tensor["shape"])
    return Content(tensors, metadata)


def parsed(path: str | os.PathLike[str], part: str, text: str | bytes) -> Any:
    """Return a JSON object that a file holds, or raise `PruningError`."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of 5,000 digits are a ValueError, too
        raise damaged(path, f"its {part} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise damaged(path, f"its {part} is {type(found).__name__}, expected an object")
    return found


def damaged(path: str | os.PathLike[str], why: str) -> PruningError:
    """Return the error for a file that is not what was written."""
    return PruningError(f"{os.fspath(path)!r} is damaged: {why}")


def structure_of(params: Any) -> dict[str, list[int]]:
    """Return ``{path: shape}`` of the arrays in a tree, in alphabetical order."""
    return {name: list(shape) for name, shape in sorted(shapes_by_path(params).items())}


def check_structure(
    path: str | os.PathLike[str], saved: dict[str, list[int]], here: dict[str, list[int]]
) -> None:
    """Refuse a file of another model, with the first parameter that differs."""
    for name in dict.fromkeys([*saved, *here]):
        if saved.get(name) != here.get(name):
            raise PruningError(
                f"{os.fspath(path)!r} belongs to another model: parameter {name!r} is "
                f"{_described(saved, name)} there and {_described(here, name)} here"
            )


def is_shape(found: Any) -> bool:
    """Return whether something that a file holds is a shape."""
    return isinstance(found, list) and all(type(size) is int and size >= 0 for size in found)


def _described(structure: dict[str, list[int]], name: str) -> str:
    return f"of shape {tuple(structure[name])}" if name in structure else "missing"


def write_atomically(path: Path, *content: bytes | memoryview) -> None:
    """Write beside the file, then rename: a reader never sees half a file.

    A link stays, and what it points to is replaced.
    """
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
    temporary = target.with_name(f".{target.name[:64]}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            error.filename = os.fspath(path)  # a full disk names no file
        raise

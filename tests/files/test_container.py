"""Safetensors with a checksum: hostile files, links, and files damaged at random."""

import hashlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from lap_jax import PruningError, load_masks, load_pruned, read_metadata, save_masks, save_pruned
from lap_jax.files.container import read, write, write_atomically

PARAMS: Any = {
    "a": {"kernel": np.arange(60, dtype=np.float32).reshape(6, 10), "bias": np.ones(10)},
    "b": {"kernel": jnp.arange(60, dtype=jnp.bfloat16).reshape(6, 10)},
}
MASKS: Any = {name: {"kernel": PARAMS[name]["kernel"] % 7 < 1} for name in PARAMS}
SPARSE = {
    name: {key: jnp.where(MASKS[name].get(key, True), leaf, 0) for key, leaf in sub.items()}
    for name, sub in PARAMS.items()
}
LOADS: dict[str, Callable[[Path], Any]] = {
    "masks": lambda path: (load_masks(path, PARAMS), read_metadata(path)),
    "pruned": lambda path: load_pruned(path, PARAMS),
}


def saved(kind: str, folder: Path) -> bytes:
    if kind == "masks":
        save_masks(folder / "saved", MASKS, PARAMS, method="LAP", sparsity={"a": 0.9})
    else:
        save_pruned(folder / "saved", SPARSE, MASKS)
    return (folder / "saved").read_bytes()


def header_of(content: bytes) -> Any:
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def compact(header: Any) -> str:
    return json.dumps(header, separators=(",", ":"))


def signed(text: str, data: bytes) -> bytes:
    """A file with a right checksum, whatever it holds."""
    digest, zeros = text.partition('"sha256":"')[2][:64] or "no checksum", "0" * 64
    text = text.replace(digest, zeros)
    start = len(text.encode()).to_bytes(8, "little")
    whole = hashlib.sha256(start + text.encode() + data).hexdigest()
    return start + text.replace(zeros, whole).encode() + data


def test_a_file_says_what_it_is_to_other_readers(tmp_path: Path) -> None:
    saved("pruned", tmp_path)
    with safe_open(tmp_path / "saved", "flax") as file:
        assert file.metadata()["format"] == "lap_jax pruned 1"
        assert file.get_tensor("b/kernel").dtype == jnp.bfloat16
        chex.assert_trees_all_equal(file.get_tensor("a/kernel"), PARAMS["a"]["kernel"][
            MASKS["a"]["kernel"]])  # fmt: skip
    content = (tmp_path / "saved").read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    text = content[8:size].decode()
    assert signed(text, content[size:]) == content  # the checksum is the one that is described


@pytest.mark.parametrize("dtype", [">f4", "<i2", "complex64", "float8_e4m3fn", "bool"])
def test_arrays_come_back_whatever_their_order(dtype: str, tmp_path: Path) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(jnp.dtype(dtype))
    tensors = {"one": array, "turned": array.T, "empty": array[:0], "scalar": array[0, 0, 1]}
    write(tmp_path / "x", tensors, {"format": "test"})
    found = read(tmp_path / "x", "test").tensors
    for name, each in tensors.items():
        np.testing.assert_array_equal(found[name], each)
        assert found[name].dtype.name == array.dtype.name


# ---------------------------------------------------------------- hostile files


def hostile(how: str, kind: str, content: bytes) -> bytes:
    size = 8 + int.from_bytes(content[:8], "little")
    header, data = header_of(content), content[size:]
    notes = header["__metadata__"]
    digits, deep = "9" * 5000, "[" * 100_000
    part = "structure" if kind == "masks" else "masks"
    match how:
        case "an unknown type":
            header["a/kernel"]["dtype"] = "F128"
        case "a type that NumPy has not":
            header["a/kernel"] |= {"dtype": "F4", "shape": [2 * header["a/kernel"]["shape"][0]]}
        case "another type":
            header["a/kernel"] |= {"dtype": "I8", "shape": [np.diff(
                header["a/kernel"]["data_offsets"]).item()]}  # fmt: skip
            header["a/kernel"]["shape"] += [1]
        case "deep nesting":
            return signed(compact(header)[:-1] + f',"x":{deep}', data)
        case "deep nesting inside":
            notes[part] = deep
        case "numbers of 5,000 digits":
            return signed(compact(header).replace('"shape":[', f'"shape":[{digits},'), data)
        case "numbers of 5,000 digits inside":
            notes[part] = f'{{"a/kernel": [{digits}]}}'
        case "a huge size":
            header["a/kernel"]["shape"] = [2**62]
        case "a huge size inside":
            shape = [2**62, 2**62]
            notes[part] = json.dumps({"a/kernel": shape if kind == "masks" else [shape, 3, 0, 9]})
        case "overlapping offsets":
            header["a/kernel"]["data_offsets"] = header["b/kernel"]["data_offsets"]
        case "offsets outside":
            header["a/kernel"]["data_offsets"] = [2**40, 2**40 + 60]
        case "a parameter called __metadata__":
            header["__metadata__"] = header["a/kernel"]
        case "another parameter":
            header["c/kernel"] = header.pop("a/kernel")
        case "no object":
            return signed("[1]", data)
        case "other things inside":
            notes[part] = '{"a/kernel": {"b": null}, "b/kernel": [[true], "3", 1.5, -1]}'
        case "nothing inside":
            del notes[part]
        case "text that is none":
            return content[:20] + b"\xff\xfe" + content[22:]
        case "a header of 2^63 bytes":
            return (2**63).to_bytes(8, "little") + content[8:]
        case "two checksums":
            twice = f'"__metadata__":{{"sha256":"{"1" * 64}",'
            return signed(compact(header).replace('"__metadata__":{', twice), data)
    return signed(compact(header), data)


HOSTILE = """an unknown type, a type that NumPy has not, another type, deep nesting
deep nesting inside, numbers of 5;000 digits, numbers of 5;000 digits inside, a huge size
a huge size inside, overlapping offsets, offsets outside, a parameter called __metadata__
another parameter, no object, other things inside, nothing inside, text that is none
a header of 2^63 bytes, two checksums"""


@pytest.mark.parametrize("kind", LOADS)
def test_hostile_files_are_pruning_errors(kind: str, tmp_path: Path) -> None:
    content = saved(kind, tmp_path)
    for line in HOSTILE.splitlines():
        for how in line.replace(";", "#").split(", "):
            name = how.replace("#", ",")
            changed = hostile(name, kind, content)
            assert changed != content, name
            (tmp_path / "saved").write_bytes(changed)
            with pytest.raises(PruningError, match="saved"):
                print(f"{kind}, {name}: {LOADS[kind](tmp_path / 'saved')}")


def test_what_a_file_cannot_hold_is_not_saved(tmp_path: Path) -> None:
    for name, leaf, message in [
        ("__metadata__", np.ones(3), "__metadata__.*rename"),
        ("__masks__", np.ones(3), "__masks__.*rename"),
        ("\ud800", np.ones(3), "rename"),
        ("kernel", jnp.ones(3, jnp.int4), "kernel.*int4.*expected"),
        ("kernel", np.array(["a"]), "kernel.*<U1"),
    ]:
        with pytest.raises(PruningError, match=message):
            save_pruned(tmp_path / "x", {name: leaf})
    with pytest.raises(PruningError, match="__metadata__"):
        save_masks(tmp_path / "x", {"__metadata__": np.ones(3, bool)}, {"__metadata__": np.ones(3)})
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- damage at random


def damage(content: bytes, chance: random.Random) -> tuple[bytes, bool]:
    """A file that is not the one written, and whether its checksum is made right again."""
    changed, size = bytearray(content), 8 + int.from_bytes(content[:8], "little")
    place, other = (chance.randrange(len(content)) for _ in range(2))
    match chance.randrange(8):
        case 0:
            changed[place] ^= 1 << chance.randrange(8)
        case 1:
            for _ in range(chance.randrange(2, 20)):
                changed[chance.randrange(len(content))] = chance.randrange(256)
        case 2:
            changed[place], changed[other] = changed[other], changed[place]
        case 3:
            count = chance.randrange(1, 40)
            some = changed[place : place + count]
            changed[place : place + count] = []
            changed[other:other] = some
        case 4:
            del changed[place:]
        case 5:
            changed += bytes(chance.randrange(256) for _ in range(chance.randrange(1, 30)))
        case 6:
            changed[place : place + chance.randrange(1, 64)] = b""
        case 7:  # an edit of the header, by somebody who knows how to sign
            text = content[8:size].decode()
            spots = [i for i, letter in enumerate(text) if letter in '0123456789[]{},:"']
            at = chance.choice(spots)
            text = text[:at] + chance.choice('0123456789[]{},:"-.et') + text[at + 1 :]
            return signed(text, content[size:]), True
    return bytes(changed), False


@pytest.mark.parametrize("count", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_no_damaged_file_loads_wrong_or_escapes(count: int, tmp_path: Path) -> None:
    """Bits flipped, bytes swapped, parts moved, cut and added; headers edited and signed anew."""
    chance, path = random.Random(count), tmp_path / "saved"
    wanted, refused = {}, 0
    for kind, load in LOADS.items():
        content = saved(kind, tmp_path)
        wanted[kind] = load(path)
        for _ in range(count // 2):
            changed, right = damage(content, chance)
            path.write_bytes(changed)
            try:
                found = load(path)
            except PruningError:
                refused += 1
            else:
                assert right or changed == content
                chex.assert_trees_all_equal_structs(found, wanted[kind])
    assert refused > 0.9 * count


# ---------------------------------------------------------------- writing


def test_links_stay_and_what_they_point_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link, target = tmp_path / "link", tmp_path / "far" / "target"
    link.symlink_to(target)
    for content in (b"first, where the link leads nowhere yet", b"second"):
        write_atomically(link, content[:3], memoryview(content)[3:])
        assert link.is_symlink()
        assert target.read_bytes() == content
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="symbolic links"):
        write_atomically(loop, b"")
    assert sorted(os.listdir(tmp_path)) == ["far", "link", "loop"]
    assert os.listdir(tmp_path / "far") == ["target"]


def test_permissions_are_those_of_any_new_file_and_names_may_be_long(tmp_path: Path) -> None:
    path, plain = tmp_path / ("n" * 255), tmp_path / "plain"
    before = os.umask(0o027)
    try:
        write_atomically(path, b"x")
        plain.write_bytes(b"x")
    finally:
        os.umask(before)
    assert path.stat().st_mode == plain.stat().st_mode

"""Every form is read as it was written, bit by bit, and what is none is refused in one line."""

import os
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import serialization
from safetensors.numpy import save_file

import lap_jax
from lap_jax.cli.checkpoints import flat, form_of, load, nested, write, write_file
from lap_jax.cli.errors import BadInput


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "params/Dense_0/kernel": rng.normal(size=(3, 4)).astype(np.float32),
        "params/Dense_0/bias": np.asarray(jnp.ones(4, jnp.bfloat16)),
        "batch_stats/count": np.asarray(7, np.int32),
        "wide": rng.normal(size=2),
    }


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == array.tobytes(), name
        assert found[name].shape == array.shape, name


@pytest.mark.parametrize("name", ["x.safetensors", "x.msgpack", "x"])
def test_what_is_written_is_read_bit_by_bit(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for _ in range(2):  # again, in the place of the first
        write(path, arrays(), {"who": "me"})
    found = load(path)
    same(found.arrays, arrays())
    assert found.form == form_of(path) == {"x": "orbax"}.get(name, name[2:])
    assert found.notes == ({"who": "me"} if name.endswith("safetensors") else {})
    assert found.size >= sum(array.nbytes for array in arrays().values())
    assert os.listdir(tmp_path) == [name]


def test_what_flax_orbax_and_safetensors_write_is_read(tmp_path: Path) -> None:
    tree = nested(arrays())
    (tmp_path / "flax").write_bytes(serialization.to_bytes(tree))
    same(load(tmp_path / "flax").arrays, arrays())
    save_file(arrays(), tmp_path / "tensors")
    same(load(tmp_path / "tensors").arrays, arrays())
    manager = ocp.CheckpointManager(tmp_path / "steps")
    for step, scale in ((2, 1.0), (10, 3.0)):
        held = {"a": np.full((2, 2), scale, np.float32)}
        manager.save(step, args=ocp.args.StandardSave(held))
    manager.wait_until_finished()
    manager.close()
    found = load(tmp_path / "steps")
    assert found.path.parts[-2:] == ("10", "default")
    same(found.arrays, {"a": np.full((2, 2), 3.0, np.float32)})


def test_files_of_the_library_are_read_without_a_model(tmp_path: Path) -> None:
    params: Any = {"a": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "b": jnp.ones(2)}
    masks = {"a": {"kernel": params["a"]["kernel"] > 2}}
    lap_jax.save_masks(tmp_path / "masks", masks, params)
    found = load(tmp_path / "masks")
    assert found.form == "masks"
    assert found.arrays["a/kernel"].tolist() == masks["a"]["kernel"].tolist()
    lap_jax.save_pruned(tmp_path / "pruned", lap_jax.apply_masks(params, masks), masks)
    found = load(tmp_path / "pruned")
    assert found.form == "pruned"
    assert found.arrays["a/kernel"].tolist() == [[0, 0, 0], [3, 4, 5]]
    assert found.arrays["b"].tolist() == [1, 1]


def test_names_and_trees_are_each_other() -> None:
    tree: Any = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert nested(flat(tree)) == tree
    assert flat({"a": [1, 2], "b": (3,)}) == {"a/0": 1, "a/1": 2, "b/0": 3}
    for names in ({"a": 1, "a/b": 2}, {"a/b": 2, "a": 1}):
        with pytest.raises(BadInput, match="a"):
            nested(names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither a safetensors file nor one of flax.serialization"),
        (b"#!/bin/sh\n", "neither a safetensors file"),
        (b'\x08\0\0\0\0\0\0\0{"a":1}} and more', "no safetensors file, or is damaged"),
        (b"\x93\x01\x02\x03", "holds list: expected a tree"),
        (b"\x80", "holds no array"),
    ],
)
def test_what_is_no_checkpoint_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        load(tmp_path / "x")


def test_cut_short_it_is_refused_at_every_length(tmp_path: Path) -> None:
    save_file(arrays(), tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(BadInput, match=r"'.*cut'"):
            load(tmp_path / "cut")


def test_folders_without_one_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not there"):
        load(tmp_path / "missing")
    with pytest.raises(BadInput, match="holds no checkpoint of Orbax"):
        load(tmp_path)
    for name in ("params", "state"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "_METADATA").touch()
    with pytest.raises(BadInput, match=r"holds 2 items \(params, state\)"):
        load(tmp_path)


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    write_file(path, b"before")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*x.safetensors'"):
        write_file(path, b"after")
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"before", ["x.safetensors"])


def test_a_folder_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write(path, arrays(), {})
    with pytest.raises(BadInput, match="cannot be written by Orbax"):
        write(path, {"a": np.array([object()])}, {})
    same(load(path).arrays, arrays())
    assert os.listdir(tmp_path) == ["x"]


def test_a_link_stays_and_a_strange_ending_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"before")
    (tmp_path / "link").symlink_to("real")
    write_file(tmp_path / "link", b"after")
    assert ((tmp_path / "link").is_symlink(), (tmp_path / "real").read_bytes()) == (True, b"after")
    with pytest.raises(BadInput, match=r"ends in '\.npz'"):
        form_of(tmp_path / "x.npz")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "flax.serialization", None)
    (tmp_path / "x").write_bytes(b"\x80")
    with pytest.raises(BadInput, match=r"a msgpack file takes flax, .*: pip install flax"):
        load(tmp_path / "x")


def test_boxes_and_keys_of_a_state_lie_by_name(tmp_path: Path) -> None:
    """What Orbax writes of NNX and of Linen's boxes ends in ``value``."""
    boxed: Any = {"a": nn.Partitioned(jnp.ones((2, 2)), ("x", None))}
    with ocp.StandardCheckpointer() as writer:
        writer.save(tmp_path / "boxed", boxed)
    assert list(load(tmp_path / "boxed").arrays) == ["a/value"]
    assert jax.tree.leaves(boxed)[0].shape == (2, 2)

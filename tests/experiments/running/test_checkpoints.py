"""Checkpoints: what is saved comes back, where it lay, and a later one takes the place."""

import shutil
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.running import checkpoints


def state_of(number: float) -> Any:
    params = {"a": {"kernel": jnp.full((2, 3), number)}, "b": jnp.full(4, number, jnp.bfloat16)}
    return {"params": params, "adam": optax.adam(0.1).init(params), "steps": jnp.int32(number)}


def never(path: Path, error: Exception) -> None:
    raise AssertionError(f"{path} is whole") from error


def test_state_and_notes_come_back_and_the_last_two_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    checkpoints.save(folder, 2, state_of(0), {})
    checkpoints.save(folder, 3, state_of(1), {"losses": [0.5]})
    checkpoints.save(folder, 7, state_of(2), {"losses": [0.5, 0.25], "of": "LAP"})
    found = checkpoints.restore(folder, state_of(0), never)
    assert found is not None
    step, state, notes = found
    assert (step, notes) == (7, {"losses": [0.5, 0.25], "of": "LAP"})
    chex.assert_trees_all_equal(state, state_of(2), strict=True)
    assert sorted(path.name for path in folder.iterdir()) == ["3", "7"]
    checkpoints.drop(folder)
    assert not folder.exists()
    checkpoints.drop(folder)  # once more is no error


def test_arrays_come_back_to_the_devices_of_those_they_replace(tmp_path: Path) -> None:
    mesh = Mesh(np.array(jax.devices()[:2]), ("networks",))
    lanes = NamedSharding(mesh, PartitionSpec("networks"))
    whole = jnp.arange(8.0).reshape(4, 2)
    checkpoints.save(tmp_path, 1, {"kernel": jax.device_put(whole, lanes)}, {})
    for place in (lanes, jax.devices()[3]):
        like = {"kernel": jax.device_put(jnp.zeros_like(whole), place)}
        found = checkpoints.restore(tmp_path, like, never)
        assert found is not None
        chex.assert_trees_all_equal(found[1], {"kernel": whole})
        assert found[1]["kernel"].sharding == like["kernel"].sharding


@pytest.mark.parametrize("made", [False, True])
def test_where_nothing_was_saved_there_is_nothing(made: bool, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    if made:
        folder.mkdir()
    assert checkpoints.restore(folder, state_of(0), never) is None


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_read(tmp_path: Path) -> None:
    """Each file of a checkpoint in turn is emptied, cut, or a bit of it flipped."""
    whole = tmp_path / "whole"
    for step in (3, 7):
        checkpoints.save(whole, step, state_of(step), {"of": step})
    files = [path for path in sorted((whole / "7").rglob("*")) if path.is_file()]
    assert len(files) > 5
    damaged = 0
    for number, file in enumerate(files):
        folder, aside = tmp_path / str(number), []
        shutil.copytree(whole, folder)
        content = bytearray(file.read_bytes())
        match number % 3:
            case 0:
                content = bytearray()
            case 1:
                del content[len(content) // 2 :]
            case 2:
                content[len(content) // 2] ^= 4
        (folder / file.relative_to(whole)).write_bytes(content)

        def set_aside(path: Path, error: Exception) -> None:
            shutil.rmtree(path)
            aside.append(path.name)  # noqa: B023

        found = checkpoints.restore(folder, state_of(0), set_aside)
        assert found is not None
        step, state, notes = found
        assert aside == ([] if step == 7 else ["7"])
        assert notes == {"of": step}
        chex.assert_trees_all_equal(state, state_of(step), strict=True)
        damaged += bool(aside)
    assert damaged > 2  # what only describes may be damaged and harmless


def test_a_full_disk_names_the_folder_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device [28]")

    monkeypatch.setattr(checkpoints.ocp.CheckpointManager, "save", full)
    with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device: '.*work'$"):
        checkpoints.save(tmp_path / "work", 1, state_of(1), {})

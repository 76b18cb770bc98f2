"""Checkpoints: what is saved comes back, where it lay, and a later one takes the place."""

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


def test_state_and_notes_come_back_and_the_last_is_the_only_one(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    checkpoints.save(folder, 3, state_of(1), {"losses": [0.5]})
    checkpoints.save(folder, 7, state_of(2), {"losses": [0.5, 0.25], "of": "LAP"})
    found = checkpoints.restore(folder, state_of(0))
    assert found is not None
    step, state, notes = found
    assert (step, notes) == (7, {"losses": [0.5, 0.25], "of": "LAP"})
    chex.assert_trees_all_equal(state, state_of(2), strict=True)
    assert [path.name for path in folder.iterdir()] == ["7"]
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
        found = checkpoints.restore(tmp_path, like)
        assert found is not None
        chex.assert_trees_all_equal(found[1], {"kernel": whole})
        assert found[1]["kernel"].sharding == like["kernel"].sharding


@pytest.mark.parametrize("made", [False, True])
def test_where_nothing_was_saved_there_is_nothing(made: bool, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    if made:
        folder.mkdir()
    assert checkpoints.restore(folder, state_of(0)) is None

"""Models by name, and a checkpoint's arrays in their variables, whoever wrote it."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, serialization
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict

from lap_jax.cli.checkpoints import Checkpoint, flat
from lap_jax.cli.errors import BadInput
from lap_jax.cli.models import filled, given, map_paths, paths_of, pruned_arrays
from tests.cli import networks

HERE = "tests.cli.networks:"


def checkpoint(tree: Any) -> Checkpoint:
    arrays = {name: np.asarray(leaf) for name, leaf in flat(tree).items() if hasattr(leaf, "shape")}
    return Checkpoint(Path("x"), "msgpack", arrays, {})


def stored(tree: Any) -> Checkpoint:
    """As Flax writes it and reads it back."""
    return checkpoint(serialization.msgpack_restore(serialization.to_bytes(tree)))


def state(variables: Any) -> TrainState:
    model = networks.Dense()
    return TrainState.create(apply_fn=model.apply, params=variables, tx=optax.adam(1e-3))


VARIABLES = networks.variables(seed=3)
WAYS = {
    "variables": stored(VARIABLES),
    "dots": checkpoint(flatten_dict(VARIABLES, sep=".")),
    "without collections": checkpoint(
        {**flat(VARIABLES["params"]), **flat(VARIABLES["batch_stats"])}
    ),
    "a training state": stored(state(VARIABLES["params"])),
    "a training state of variables": stored(state(VARIABLES)),
    "values": checkpoint({f"{name}/value": leaf for name, leaf in flat(VARIABLES).items()}),
}
WAYS["a training state"].arrays.update(checkpoint({"batch_stats": VARIABLES["batch_stats"]}).arrays)


@pytest.mark.parametrize("way", WAYS)
def test_arrays_find_their_places(way: str) -> None:
    found = filled(given(f"{HERE}linen").variables, WAYS[way])
    assert str(jax.tree.structure(found.variables)) == str(jax.tree.structure(VARIABLES))
    for mine, own in zip(jax.tree.leaves(found.variables), jax.tree.leaves(VARIABLES), strict=True):
        np.testing.assert_array_equal(mine, own)
    assert set(found.names) == set(paths_of(VARIABLES))
    assert bool(found.others) == way.startswith("a training")
    assert all("params" not in name.split("/")[:1] for name in found.others) or way.endswith(
        "variables"
    )


def test_moments_are_not_taken_for_parameters() -> None:
    """Adam's moments have the names and shapes of the parameters."""
    found = filled(given(f"{HERE}linen").variables, WAYS["a training state"])
    assert not any("opt_state" in name for name in found.names.values())
    assert any("opt_state" in name for name in found.others)


def test_nnx_equinox_and_functions_have_variables_of_their_own() -> None:
    for name in ("of_nnx", "of_equinox", "function"):
        told = given(HERE + name)
        values = jax.tree.map(lambda leaf: leaf, told.variables)
        if name == "function":
            values = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), values)
        arrays = {
            path: np.asarray(leaf) + 1
            for path, leaf in paths_of(values).items()
            if jnp.issubdtype(leaf.dtype, jnp.floating)
        }
        found = filled(told.variables, Checkpoint(Path("x"), "orbax", arrays, {}))
        for path, leaf in paths_of(found.variables).items():
            if path in arrays:
                np.testing.assert_array_equal(leaf, arrays[path])
        assert told.inputs
    model = given(f"{HERE}of_nnx")
    keys = [leaf for leaf in paths_of(model.variables).values()
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]  # fmt: skip
    assert keys, "the model holds a key that no file needs to hold"
    assert isinstance(model.variables, nnx.State)


def test_options_and_single_inputs() -> None:
    assert given(f"{HERE}linen_with_options").options == {"train": False}
    told = given(f"{HERE}linen")
    assert [each.shape for each in told.inputs] == [(2, networks.WIDTHS[0])]
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(told.variables))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.cli.networks", "expected module:function"),
        (":linen", "expected module:function"),
        ("no_such_module:f", "ModuleNotFoundError: No module named 'no_such_module'"),
        (f"{HERE}nobody", "AttributeError: .*'nobody'"),
        (f"{HERE}broken", "ValueError: no such network$"),
        (f"{HERE}nothing", r"returned NoneType: expected \(model, inputs\)"),
        (f"{HERE}misspelt", "returned option, too"),
        (f"{HERE}function_alone", "a function's variables are not known"),
        (f"{HERE}of_other_inputs", "its variables: "),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as error:
        given(name)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_model_is_refused() -> None:
    template = given(f"{HERE}linen").variables
    arrays = dict(WAYS["variables"].arrays)
    del arrays["batch_stats/BatchNorm_0/mean"]
    with pytest.raises(BadInput, match="holds no 'batch_stats/BatchNorm_0/mean', which the model"):
        filled(template, Checkpoint(Path("x"), "msgpack", arrays, {}))
    arrays = WAYS["variables"].arrays | {"params/Dense_1/kernel": np.ones((9, 9), np.float32)}
    with pytest.raises(BadInput, match=r"shape \(9, 9\), and the model expects \(8, 3\)"):
        filled(template, Checkpoint(Path("x"), "msgpack", arrays, {}))


def test_pruned_arrays_are_those_of_the_file_with_zeros() -> None:
    wide = {"a": np.array([[1e-300, np.nan], [2.0, 3.0]])}  # float64, which JAX would round
    mask = np.array([[True, False], [False, True]])
    found = pruned_arrays(
        Checkpoint(Path("x"), "msgpack", wide, {}), {"w": "a"}, {"w": jnp.asarray(mask)}
    )
    assert found["a"].dtype == np.float64
    assert found["a"].tolist() == [[1e-300, 0.0], [0.0, 3.0]]


def test_paths_map_onto_themselves() -> None:
    found = map_paths(lambda path, leaf: path, {"a": {"b": jnp.ones(2)}, "f": "text"})
    assert found == {"a": {"b": "a/b"}, "f": "text"}

"""Leaves of trees and of optimizers' states changed where they stand for variables."""

from typing import Any

import jax.numpy as jnp
import optax

import lap_jax
from lap_jax.shrinking.states import changed, inside

PARAMS = {"a": {"w": jnp.ones((2, 3))}, "b": jnp.ones(3)}


def apart(path: str, leaf: Any) -> Any:
    return {"0": leaf[0], "1": leaf[1]} if path == "a/w" else leaf


def test_a_leaf_may_become_a_dictionary_in_trees_and_by_path() -> None:
    masks = {"a": {"w": jnp.ones((2, 3), bool)}}
    optimizer = lap_jax.keep_pruned(optax.adam(0.1), masks)
    state = changed(optimizer.init(PARAMS), PARAMS, {"a/w", "b"}, apart, lambda state: state)
    assert set(state.masks) == {"a/w/0", "a/w/1"}
    assert state.inner_state[0].mu["a"]["w"]["1"].shape == (3,)
    assert state.inner_state[0].count.shape == ()
    part = changed(masks, PARAMS, {"a/w", "b"}, apart, lambda state: state)
    assert set(part["a"]["w"]) == {"0", "1"}


def test_what_is_a_tree_of_its_own_has_no_path() -> None:
    assert inside("a/w", "0") == "a/w/0"
    assert inside("", "0") == "0"

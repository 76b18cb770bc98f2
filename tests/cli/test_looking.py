"""What there is to know of a checkpoint and of a graph."""

import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lap_jax
from lap_jax.cli.checkpoints import Checkpoint
from lap_jax.cli.errors import BadInput
from lap_jax.cli.looking import (
    facts_of,
    heard,
    layers_table,
    left_out,
    loaded,
    not_finite,
    picture_of,
    unread_of,
    warnings_of,
    zeros_as_masks,
)
from lap_jax.cli.models import paths_of
from tests.cli import networks


def checkpoint(variables: Any) -> Checkpoint:
    arrays = {path: np.asarray(leaf) for path, leaf in paths_of(variables).items()}
    return Checkpoint(Path("x"), "msgpack", arrays, {})


def test_a_model_is_loaded_with_its_graph() -> None:
    model = loaded(checkpoint(networks.variables(1)), "tests.cli.networks:linen")
    assert model.graph.names == ("Dense_0", "Dense_1")
    assert model.parameters == sum(leaf.size for leaf in jax.tree.leaves(networks.variables()))
    picture = picture_of(model.graph)
    assert picture.startswith("<svg")
    assert "Dense_1" in picture


def test_facts_and_rows_are_those_of_the_summary() -> None:
    masks = {"a": {"kernel": jnp.array([[True, False], [False, False]])}}
    summary = lap_jax.summarize(masks)
    assert facts_of(summary) == {"weights": 4, "kept": 1, "sparsity": 0.75, "neurons": 2,
                                 "dead neurons": 1}  # fmt: skip
    assert layers_table(summary).rows == [("a", (2, 2), 4, 1, 0.75, None, 1, 2)]


def test_zeros_of_kernels_are_pruned_and_biases_are_not() -> None:
    masks = zeros_as_masks(
        {"k": jnp.array([[0.0, 2.0]]), "b": jnp.zeros(2), "n": jnp.zeros(2, int)}
    )
    assert masks["k"].tolist() == [[False, True]]
    assert [masks[name].shape for name in ("b", "n")] == [(), ()]


def test_wasted_and_empty_layers_are_told() -> None:
    params = {"a": {"kernel": jnp.ones((2, 2))}, "b": {"kernel": jnp.ones((2, 1))}}
    graph = lap_jax.chain(params, ["a", "b"])
    masks = {"a": {"kernel": jnp.array([[True, False], [True, False]])},
             "b": {"kernel": jnp.array([[False], [True]])}}  # fmt: skip
    told = list(warnings_of(graph, lap_jax.summarize(masks, graph)))
    assert len(told) == 1
    assert "3 of 3 kept weights do nothing" in told[0]
    masks["b"]["kernel"] = jnp.zeros((2, 1), bool)
    told = list(warnings_of(graph, lap_jax.summarize(masks, graph)))
    assert told[0] == "layer 'b' keeps no weight: what follows it is constant"
    whole = jax.tree.map(lambda leaf: leaf > 0, params)
    assert not list(warnings_of(graph, lap_jax.summarize(whole, graph)))


def test_barriers_and_unread_weights_are_told() -> None:
    def model(params: Any, x: jax.Array) -> jax.Array:
        x = jnp.sort(x @ params["a"], axis=-1) @ params["b"]
        return x + params["table"]

    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2)), "table": jnp.ones((2, 2))}
    graph = lap_jax.trace(model, params, jnp.ones((2, 3)))
    summary = lap_jax.summarize(jax.tree.map(lambda leaf: leaf > 0, params), graph)
    assert any("barrier: sort" in each for each in warnings_of(graph, summary))
    assert all("not in the graph" in each for each in unread_of(graph))


def test_numbers_that_are_none_and_arrays_of_others() -> None:
    arrays = {"a": np.array([1.0, np.nan, np.inf]), "b": np.array([1, 2]), "c": np.ones(2)}
    assert list(not_finite(arrays)) == ["'a' holds 2 numbers that are NaN or infinite"]
    assert not list(left_out(()))
    assert "a, b, c, and 2 more; start" in next(left_out(tuple("abcde")))


def test_warnings_of_the_library_are_heard_and_deprecations_are_not() -> None:
    told: list[str] = []
    with heard(told):
        warnings.warn("one\nline", UserWarning, stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert told == ["one line"]


def test_a_model_that_cannot_be_called_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(params: Any, x: jax.Array) -> jax.Array:
        return x @ params["b"]

    monkeypatch.setattr(networks, "plain", wrong)
    variables = {"a": jnp.ones((6, 8)), "b": jnp.ones((8, 3))}
    with pytest.raises(BadInput, match=r"--model tests.cli.networks:function, called: TypeError"):
        loaded(checkpoint(variables), "tests.cli.networks:function")

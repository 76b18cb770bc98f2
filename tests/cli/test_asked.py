"""Sparsities and scopes as people type them."""

from typing import Any

import numpy as np
import pytest

import lap_jax
from lap_jax import Scope
from lap_jax.cli import asked
from lap_jax.cli.errors import BadInput


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["0.9"], 0.9),
        (["Conv_*=0.5", "*=.9"], {"Conv_*": 0.5, "*": 0.9}),
        (["a=b=0.5"], {"a=b": 0.5}),
    ],
)
def test_sparsities(texts: list[str], expected: Any) -> None:
    assert asked.sparsity(texts) == expected


@pytest.mark.parametrize("texts", [[], ["x"], ["a="], ["0.5", "0.6"], ["0.5", "a=0.6"]])
def test_what_is_no_sparsity(texts: list[str]) -> None:
    with pytest.raises(BadInput, match="expected one number, or NAME=NUMBER"):
        asked.sparsity(texts)


def test_one_number_is_spread_by_a_rule_and_names_are_not() -> None:
    params = {"a": {"kernel": np.ones((30, 60))}, "b": {"kernel": np.ones((60, 12))}}
    graph = lap_jax.chain(params, ["a", "b"])
    assert asked.distributed(0.9, "uniform", graph) == 0.9
    assert asked.distributed(0.9, "erk", graph) == lap_jax.erk_sparsity(graph, 0.9)
    assert asked.distributed(0.9, "ideal-gas", graph) == lap_jax.ideal_gas_sparsity(graph, 0.9)
    with pytest.raises(BadInput, match="--distribution erk spreads one number"):
        asked.distributed({"*": 0.9}, "erk", graph)


@pytest.mark.parametrize(
    ("unit", "group", "expected"),
    [
        ("weight", None, Scope()),
        ("channel", None, Scope(unit="channel")),
        ("input-channel", None, Scope(unit="channel", axis=-2)),
        ("neuron", None, Scope(unit="neuron")),
        ("4x2", None, Scope(unit=(4, 2))),
        ("weight", "2:4", Scope(group=(2, 4))),
    ],
)
def test_units_and_groups(unit: str, group: str | None, expected: Scope) -> None:
    assert asked.scope("layer", "norm", unit, group, 1) == expected


def test_what_is_no_unit_or_group() -> None:
    with pytest.raises(BadInput, match="--unit is '4by4': expected weight, channel"):
        asked.scope("layer", "norm", "4by4", None, 1)
    with pytest.raises(BadInput, match="--group is '2/4'"):
        asked.scope("layer", "norm", "weight", "2/4", 1)
    assert asked.scope("global", "lamp", "neuron", None, 8) == Scope(
        "global", "lamp", "neuron", multiple_of=8
    )

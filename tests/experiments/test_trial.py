"""Trials: their names outlast new fields, and their ways are read as they are written."""

from dataclasses import fields, replace
from typing import Any

import pytest

from experiments.trial import DEFAULTS, WAY, Trial, choices_of, settings_name

TRIAL = Trial("fcn", "relu", "digits", "LAP", 4, 0, 100, 50, 60, 1.2e-3)


def test_names_are_stable() -> None:
    assert TRIAL.name == "1ab76aea38f39dcd"
    names = {TRIAL.name, replace(TRIAL, tau=5).name}
    others: dict[str, Any] = {
        "sparsity": 0.5, "graph": "traced", "horizon": "all", "lags": True, "measured": "input",
        "calibration": 8, "effective": True, "steps": 3, "divisor": 2, "side": 8, "train_on": 9,
        "augment": False, "same_batches": True, "shrunk": True, "widths": "5,5", "scope": "2:4",
        "repair": "channels", "rates": "erk", "decay": "cosine",
    }  # fmt: skip
    names |= {replace(TRIAL, **{name: value}).name for name, value in others.items()}
    assert len(names) == 2 + len(others)


def test_a_new_field_at_its_default_leaves_names_as_they_are() -> None:
    old: dict[str, object] = {"model": "fcn", "tau": 4}
    new: dict[str, object] = {**old, "warmup": 0.0}
    assert settings_name(new, {"warmup": 0.0}) == settings_name(old, {})
    assert settings_name({**old, "warmup": 0.1}, {"warmup": 0.0}) != settings_name(old, {})


@pytest.mark.parametrize(
    "way",
    [
        "MP",
        "LAP shuffled",
        "LAP graph=traced horizon=all",
        "LAP horizon=3",
        "LAP graph=main-path lags",
        "LBP graph=traced measured=input calibration=8",
        "LAP shuffled graph=identity",
        "MP effective",
        "LAP effective steps=5",
        "LAP graph=traced horizon=all effective",
        "Wanda calibration=8 scope=2:4-outputs",
        "LAP scope=global",
        "LAP measured=active scope=neuron",
        "LAP repair=statistics",
        "MP effective rates=ideal-gas",
        "package.module:score measured=input",
    ],
)
def test_a_way_is_read_as_it_is_written(way: str) -> None:
    assert replace(TRIAL, **choices_of(way)).way == way


@pytest.mark.parametrize(
    "way",
    ["LAP traced", "LAP graph=tree", "LAP horizon=-1", "LAP lags=True", "LAP effective=1",
     "LAP measured=", "LAP measured=inputs", "LAP scope=layer", "LAP repair=all"],
)  # fmt: skip
def test_a_way_that_there_is_not_is_named(way: str) -> None:
    with pytest.raises(ValueError, match=r"'.*' in 'LAP"):
        choices_of(way)


def test_the_trials_of_a_table_differ_in_way_level_and_seed_alone() -> None:
    other = replace(TRIAL, **choices_of("MP graph=traced lags"), tau=0, sparsity=0.9, seed=3)
    assert other.run == TRIAL.run
    assert replace(TRIAL, divisor=2).run != TRIAL.run
    assert (TRIAL.level, other.level) == (4, 0.9)
    assert set(WAY) <= {field.name for field in fields(Trial)} == set(DEFAULTS)

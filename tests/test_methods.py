"""The choices that make a method, by the paper's names and put together."""

from typing import Any

import pytest

from lap_jax import METHODS, Method, lookahead_masks, lookahead_scores
from tests import oracle
from tests.networks import mlp, refused

NAMES = list(mlp())


def test_the_methods_are_the_papers_nine() -> None:
    deterministic = list(oracle.METHODS)
    assert list(METHODS) == ["MP", "RP", "LFP", "LBP", *deterministic[3:]]
    for name, method in oracle.METHODS.items():
        found = METHODS[name]
        assert (found.score, found.order, found.steps) == (method.score, method.order, method.steps)
        if method.score == "lookahead":
            assert found.direction == method.direction
    assert METHODS["RP"].score == "random"


def test_unknown_method_with_the_known_ones() -> None:
    with refused("'LAPP'", "'LAP'"):
        lookahead_masks(mlp(), NAMES, 0.5, method="LAPP")
    with refused("'lap'", "'LAP'"):
        lookahead_scores(mlp(), NAMES, method="lap")


@pytest.mark.parametrize(
    ("method", "found"),
    [
        (Method("l2"), "l2"),
        (Method("lookahead", "up"), "up"),
        (Method("lookahead", "both", "sideways"), "sideways"),
        (Method("lookahead", "both", None, 0), "0"),
    ],
)
def test_method_of_unknown_parts(method: Method, found: str) -> None:
    with refused(found):
        lookahead_masks(mlp(), NAMES, 0.5, method=method)


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_steps_are_a_positive_whole_number(steps: Any) -> None:
    with refused("steps", str(steps)):
        lookahead_masks(mlp(), NAMES, 0.5, method="LAP-forward-seq", steps=steps)


@pytest.mark.parametrize("call", [lookahead_masks, lookahead_scores])
def test_random_pruning_without_a_key(call: Any) -> None:
    arguments = (0.5,) if call is lookahead_masks else ()
    with refused("random", "key=jax.random.key"):
        call(mlp(), NAMES, *arguments, method="RP")


@pytest.mark.parametrize("name", ["LAP-forward", "LAP-backward", "LAP-forward-seq"])
def test_scores_of_ordered_methods_depend_on_masks_and_are_refused(name: str) -> None:
    with refused(name):
        lookahead_scores(mlp(), NAMES, method=name)

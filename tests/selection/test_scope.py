"""What may be asked for, and what not together; that it is obeyed, `test_scopes.py` proves."""

import numpy as np
import pytest

from lap_jax import PruningError, Scope
from lap_jax.selection.scope import checked_scope


def test_a_word_is_a_scope_and_axes_are_put_in() -> None:
    assert checked_scope("global") == Scope("global", axis=-2)
    assert checked_scope(Scope(unit="channel")).axis == -1
    assert checked_scope(Scope(unit="neuron")).axis is None


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        (Scope(unit_norm="l1"), "unit_norm is 'l1', which goes with blocks and channels"),
        (Scope(unit="neuron", unit_norm="l1"), "a neuron's is a product of Euclidean norms"),
        (Scope(unit="channel", unit_norm="l3"), "unit_norm is 'l3', expected one of"),  # type: ignore[arg-type]
        (Scope("global", group=(2, 4)), "goes with single weights of one layer"),
        (Scope(unit="neuron", multiple_of=True), "multiple_of is True: expected a whole number"),
        (Scope(at_least=2), "go with unit='neuron' alone"),
    ],
)
def test_what_does_not_go_together_is_refused(scope: Scope, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        checked_scope(scope)


def test_whole_numbers_of_numpy_are_welcome() -> None:
    scope = Scope(unit="neuron", at_least=np.int64(2), multiple_of=np.uint8(8))  # type: ignore[arg-type]
    assert checked_scope(scope) == Scope(unit="neuron", at_least=2, multiple_of=8)


@pytest.mark.parametrize("unit", [(2, 2), "channel"])
def test_units_of_either_norm_pass(unit: tuple[int, int]) -> None:
    assert checked_scope(Scope(unit=unit, unit_norm="l1")).unit_norm == "l1"

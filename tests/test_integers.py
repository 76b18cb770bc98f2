"""Numbers that count something."""

from typing import Any

import numpy as np
import pytest

from lap_jax import PruningError
from lap_jax.integers import whole_number


@pytest.mark.parametrize("given", [3, np.int8(3), np.uint64(3)])
def test_integers_of_python_and_numpy_are_taken(given: Any) -> None:
    found = whole_number("steps", given, least=3)
    assert (type(found), found) == (int, 3)


@pytest.mark.parametrize("bad", [True, np.True_, 3.0, "3", None, [3]])
def test_what_is_no_integer_is_refused_by_its_name(bad: Any) -> None:
    with pytest.raises(PruningError) as caught:
        whole_number("steps", bad)
    assert str(caught.value) == f"steps is {bad!r}: expected a whole number"


def test_a_number_below_the_least_is_refused() -> None:
    with pytest.raises(PruningError, match="steps is 0: expected a whole number of 1 or more"):
        whole_number("steps", 0, least=1)

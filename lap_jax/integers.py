"""The one check of numbers that count something."""

from __future__ import annotations

import operator
from typing import Any

from lap_jax.errors import PruningError


def whole_number(name: str, value: Any, least: int | None = None) -> int:
    """Return ``value`` as an int; NumPy's integers are welcome, truth values are not.

    Raises:
      PruningError: if it is no integer or below ``least``, naming it ``name``.
    """
    expected = "a whole number" if least is None else f"a whole number of {least} or more"
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or (least is not None and number < least):
        raise PruningError(f"{name} is {value!r}: expected {expected}")
    return number

"""Flags that are small languages: sparsities, units, groups."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lap_jax import Graph, Scope, erk_sparsity, ideal_gas_sparsity
from lap_jax.cli.errors import BadInput


def sparsity(texts: Sequence[str]) -> Any:
    """Return a number, or numbers by name, of ``0.9`` or ``Conv_*=0.5 *=0.9``.

    Raises:
      BadInput: if there is none, something is no number, or the two forms are mixed.
    """
    expected = "expected one number, or NAME=NUMBER for each name or pattern"
    levels = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        try:
            levels[name if equals else ""] = float(number)
        except ValueError:
            raise BadInput(f"--sparsity {text}: {number!r} is no number: {expected}") from None
    if not levels or ("" in levels and len(texts) > 1):
        raise BadInput(f"--sparsity {' '.join(texts)}: {expected}")
    return levels.get("", levels)


def distributed(levels: Any, distribution: str, graph: Graph) -> Any:
    """Return a number as it is, or as the sparsity of each layer by a rule.

    Raises:
      BadInput: for sparsities by name, of which no rule is left to be applied.
    """
    if distribution == "uniform":
        return levels
    if not isinstance(levels, float):
        raise BadInput(f"--distribution {distribution} spreads one number: leave names out")
    rule = {"erk": erk_sparsity, "ideal-gas": ideal_gas_sparsity}[distribution]
    return rule(graph, levels)


def scope(compare: Any, normalize: Any, unit: str, group: str | None, multiple_of: int) -> Scope:
    """Return a scope of flags.

    Raises:
      BadInput: for a unit or a group that is none.
    """
    units: dict[str, dict[str, Any]] = {
        "weight": {},
        "channel": {"unit": "channel"},
        "input-channel": {"unit": "channel", "axis": -2},
        "neuron": {"unit": "neuron"},
    }
    choices = units.get(unit)
    if choices is None:
        block = re.fullmatch(r"(\d+)x(\d+)", unit)
        if not block:
            raise BadInput(
                f"--unit is {unit!r}: expected {', '.join(units)}, or a block such as 4x4"
            )
        choices = {"unit": (int(block[1]), int(block[2]))}
    if group is not None:
        found = re.fullmatch(r"(\d+):(\d+)", group)
        if not found:
            raise BadInput(f"--group is {group!r}: expected two numbers, such as 2:4")
        choices = choices | {"group": (int(found[1]), int(found[2]))}
    return Scope(compare, normalize, multiple_of=multiple_of, **choices)

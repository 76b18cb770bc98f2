"""Equations where a kernel meets an activation, and which axes and parameters that concerns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.extend.core import JaxprEqn

from experiments.benchmarks.models.program import Known


class Reading(NamedTuple):
    """An equation that contracts a kernel with an activation, or looks rows of a table up.

    Attributes:
      operand: which operand the activation is.
      inputs: axes of the activation that are contracted or go with groups of the kernel; empty for
        a lookup.
      outputs: axes of the result that come from the kernel.
      table: ``[inputs, outputs]``, the number of the parameter that stands between them; -1: none.
    """

    operand: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    table: np.ndarray


def is_reading(equation: JaxprEqn, given: Sequence[Known]) -> bool:
    """Return whether an equation brings together an activation and a kernel."""
    if len(given) < 2:
        return False
    first, second = given[:2]
    match equation.primitive.name:
        case "dot_general":
            return first.active != second.active and _is_kernel(second if first.active else first)
        case "conv_general_dilated":
            groups = equation.params["batch_group_count"]
            return first.active and not second.active and groups == 1 and _is_kernel(second)
        case "gather":
            return second.active and not first.active and _is_kernel(first) and _whole(equation)
    return False


def reading(equation: JaxprEqn, given: Sequence[Known]) -> Reading:
    """Return how an equation, for which `is_reading` holds, reads its kernel."""
    match equation.primitive.name:
        case "dot_general":
            return _dot(equation, given)
        case "conv_general_dilated":
            return _convolution(equation, given[1])
    return _lookup(equation, given[0])


def numbers(shape: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """Number the elements of an array along axes, row by row in the order of these."""
    found = np.zeros(tuple(shape), np.int32)
    for axis in axes:
        steps = np.arange(shape[axis], dtype=np.int32)
        found = found * shape[axis] + steps.reshape([-1, *[1] * (len(shape) - axis - 1)])
    return found


def _is_kernel(known: Known) -> bool:
    return known.weights and not known.active and np.ndim(known.value) >= 2


def _place(kernel: Known) -> np.ndarray:
    if kernel.place is None:
        return np.full(np.shape(kernel.value), -1, np.int32)
    return kernel.place


def _dot(equation: JaxprEqn, given: Sequence[Known]) -> Reading:
    contract, batch = equation.params["dimension_numbers"]
    own = 0 if given[0].active else 1
    other = 1 - own
    place = _place(given[other])
    rest = [axis for axis in range(place.ndim) if axis not in (*contract[other], *batch[other])]
    groups = math.prod(place.shape[axis] for axis in batch[other])
    outputs = math.prod(place.shape[axis] for axis in rest)
    blocks = place.transpose(*batch[other], *contract[other], *rest).reshape(groups, -1, outputs)
    # The result has the batch axes, then the rest of the first operand, then of the second.
    count = len(batch[own])
    free = given[own].value.ndim - count - len(contract[own])
    start = count + (free if other == 1 else 0)
    return Reading(
        own, (*batch[own], *contract[own]), (*range(count), *range(start, start + len(rest))),
        _diagonal(blocks),
    )  # fmt: skip


def _convolution(equation: JaxprEqn, kernel: Known) -> Reading:
    dims, groups = equation.params["dimension_numbers"], equation.params["feature_group_count"]
    # One place of the window stands for all.
    out, into, *window = dims.rhs_spec
    place = _place(kernel).transpose(*window, into, out)[(0,) * len(window)]
    blocks = place.reshape(len(place), groups, -1).transpose(1, 0, 2)
    return Reading(0, (dims.lhs_spec[1],), (dims.out_spec[1],), _diagonal(blocks))


def _lookup(equation: JaxprEqn, table: Known) -> Reading:
    dims, place = equation.params["dimension_numbers"], _place(table)
    looked = _looked(equation)
    kept = [axis for axis in range(place.ndim) if axis not in dims.collapsed_slice_dims]
    at = dict(zip(kept, dims.offset_dims, strict=True))
    rest = [axis for axis in kept if axis not in looked]
    rows = math.prod(place.shape[axis] for axis in looked)
    found = place.transpose(*looked, *rest).reshape(rows, -1)
    return Reading(1, (), tuple(at[axis] for axis in rest), found)


def _looked(equation: JaxprEqn) -> tuple[int, ...]:
    """Return the axes of a table that an index goes along, one row at a time."""
    dims, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    return tuple(axis for axis in dims.start_index_map if sizes[axis] == 1)


def _whole(equation: JaxprEqn) -> bool:
    """Return whether a lookup takes rows as a whole."""
    dims, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape, looked = equation.invars[0].aval.shape, _looked(equation)  # type: ignore[attr-defined]
    rest = [axis for axis in range(len(shape)) if axis not in looked]
    whole = all(sizes[axis] == shape[axis] for axis in rest)
    return bool(looked and rest and whole and not dims.operand_batching_dims)


def _diagonal(blocks: np.ndarray) -> np.ndarray:
    """Put ``[groups, in, out]`` along the diagonal of a table; -1 elsewhere."""
    groups, into, out = blocks.shape
    table = np.full((groups, into, groups, out), -1, np.int32)
    table[np.arange(groups), :, np.arange(groups)] = blocks
    return table.reshape(groups * into, groups * out)

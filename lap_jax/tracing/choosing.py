"""What data choose of parameters: rows of a table, or one of several kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lap_jax.tracing.applying import Labelled, contracted, convolved
from lap_jax.tracing.arithmetic import MOST_MIXED, Rule, total
from lap_jax.tracing.builder import GraphBuilder, Reading
from lap_jax.tracing.interpreter import out_shape
from lap_jax.tracing.kernels import layer_of, numbered, output
from lap_jax.tracing.making import repeats
from lap_jax.tracing.movements import Broadcast, Cut, Reshape, first
from lap_jax.tracing.moving import MOVEMENTS
from lap_jax.tracing.values import Entries, FromParams, Traced, Value, moved, traced

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

_CHOSEN = "the data choose one of several kernels"


# ---------------------------------------------------------------- lookups


def _gather(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    table, index = values
    if not isinstance(table, FromParams) or not isinstance(index, Traced):
        return MOVEMENTS["gather"](builder, eqn, values)
    dims, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if dims.operand_batching_dims:
        return builder.barrier(eqn, values, "parameters are taken by an index from the data")
    shown = [axis for axis in range(len(table.shape)) if axis not in dims.collapsed_slice_dims]
    return _look_up(builder, eqn, values, sizes, dict(zip(shown, dims.offset_dims, strict=True)))


def _dynamic_slice(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    table = values[0]
    if not isinstance(table, FromParams) or not traced(values[1:]):
        return MOVEMENTS["dynamic_slice"](builder, eqn, values)
    at = {axis: axis for axis in range(len(table.shape))}
    return _look_up(builder, eqn, values, eqn.params["slice_sizes"], at)


def _look_up(
    builder: GraphBuilder, eqn: JaxprEqn, values: list[Value], sizes: Sequence[int],
    at: Mapping[int, int],
) -> Sequence[Value]:  # fmt: skip
    """A lookup in a table of parameters is a layer that reads one-hot inputs.

    Where an entry is a matrix, it is one of several kernels, once it meets an activation as one.

    Args:
      builder, eqn, values: the equation; its first value is the table.
      sizes: of what is taken, along the axes of the table.
      at: where these are in the result.
    """
    table = values[0]
    assert isinstance(table, FromParams)
    count = len(table.shape)
    looked = [i for i in range(count) if sizes[i] != table.shape[i] or i not in at]
    rest = [axis for axis in range(count) if axis not in looked]
    made = table.made
    view = made.view if isinstance(made, Entries) and made.view.leaf in builder.kernels else None
    if view is None or not looked or any(sizes[axis] != 1 for axis in looked):
        return builder.barrier(eqn, values, "parameters are taken by an index from the data")
    if sum(table.shape[axis] > 1 for axis in rest) > 1:  # an entry is a matrix: no row of a table
        (found,) = builder.barrier(eqn, values, _CHOSEN)
        return [found._replace(kernels=_one_of(table, looked, at, found.shape))]
    layer = layer_of(builder, view, [(), looked, (), rest])
    if layer is None:
        return builder.barrier(eqn, values, "the table is not a part of one parameter")
    for index in traced(values):
        builder.consume(index, layer)
    builder.readings.append(Reading(layer, None))
    places = [at[axis] for axis in rest]
    return [output(layer, numbered(view, rest, places, out_shape(eqn)))]


def _one_of(
    table: FromParams, looked: Sequence[int], at: Mapping[int, int], shape: tuple[int, ...]
) -> tuple[FromParams, ...]:  # fmt: skip
    """Return all that a lookup may give; none where that is too many."""
    rest = [axis for axis in range(len(table.shape)) if axis not in looked]
    sizes = [table.shape[axis] for axis in looked]
    own = tuple(table.shape[axis] for axis in rest)
    if math.prod(sizes) > MOST_MIXED:
        return ()
    found = []
    for place in np.ndindex(*sizes):
        start, stop = [0] * len(table.shape), list(table.shape)
        for axis, index in zip(looked, place, strict=True):
            start[axis], stop[axis] = index, index + 1
        cut = Cut(tuple(start), tuple(stop), (1,) * len(start))
        spread = Broadcast(shape, tuple(at[axis] for axis in rest))
        kernel = moved(table, (cut, Reshape(own), spread), shape)
        assert isinstance(kernel, FromParams)
        found.append(kernel)
    return tuple(found)


# ---------------------------------------------------------------- one of several kernels


def contracted_with_one_of(
    builder: GraphBuilder, eqn: JaxprEqn, x: Labelled, kernel: Labelled, result: tuple[str, ...]
) -> Traced:  # fmt: skip
    """Contract an activation with one of several kernels, as the data say: it may be each.

    Of a kernel for each example, whatever the examples are.
    """
    value, chosen = x.value, kernel.value
    assert isinstance(value, Traced)
    assert isinstance(chosen, Traced)
    # An axis of choices that the activation has not, such as those of the best two.
    free = [
        label
        for axis, label in enumerate(kernel.labels)
        if label in result
        and label not in x.labels
        and chosen.shape[axis] > 1
        and all(repeats(each, axis) for each in chosen.kernels)
    ]
    sizes = dict(zip((*x.labels, *kernel.labels), (*value.shape, *chosen.shape), strict=True))
    own = tuple(label for label in kernel.labels if label not in free)
    shape = tuple(sizes[label] for label in own)
    movement = (first(chosen.shape, kernel.at(free)), Reshape(shape))
    thin = tuple(label for label in result if label not in free)
    x = x._replace(value=_chosen_for(value, chosen))
    found = []
    for each in chosen.kernels:
        part = moved(each, movement, shape)
        found.append(contracted(builder, eqn, x, Labelled(part, own), thin, is_input=False))
    whole = tuple(sizes[label] for label in result)
    spread = (Broadcast(whole, tuple(result.index(label) for label in thin)),)
    result_of_all = moved(total(builder, eqn, found), spread, whole)
    assert isinstance(result_of_all, Traced)
    return result_of_all


def convolved_with_one_of(
    builder: GraphBuilder, eqn: JaxprEqn, value: Traced, chosen: Traced, shape: tuple[int, ...]
) -> Traced:
    """Convolve an activation with one of several kernels: it may be each."""
    value, found = _chosen_for(value, chosen), []
    for each in chosen.kernels:
        found.append(convolved(builder, eqn, value, each, shape))
        builder.unseen()
    return total(builder, eqn, found)


def _chosen_for(value: Traced, chosen: Traced) -> Traced:
    """Return what meets a chosen kernel: it depends on whatever chose, too."""
    lost = (each for each in chosen.breaks if each.node or each.why != _CHOSEN)
    return value._replace(breaks=value.breaks.union(lost))


CHOOSING: dict[str, Rule] = {"gather": _gather, "dynamic_slice": _dynamic_slice}

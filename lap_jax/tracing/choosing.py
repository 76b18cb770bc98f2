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
from lap_jax.tracing.kernels import layer_of, numbered, output, place_of
from lap_jax.tracing.making import repeats
from lap_jax.tracing.movements import Broadcast, Cut, Reshape, first
from lap_jax.tracing.moving import MOVEMENTS
from lap_jax.tracing.values import Entries, FromParams, Traced, Value, moved, traced

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

_CHOSEN = "the data choose one of several kernels"
_ACROSS = f"{_CHOSEN}, which do not lie along the first axes of their parameter"


# ---------------------------------------------------------------- lookups


def _gather(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    table, index = values
    if not _is_choice(table) or not isinstance(index, Traced):
        return MOVEMENTS["gather"](builder, eqn, values)
    dims, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if isinstance(table, Traced):
        hidden = (*dims.collapsed_slice_dims, *dims.operand_batching_dims)
        shown = [axis for axis in range(len(table.shape)) if axis not in hidden]
        at = dict(zip(shown, dims.offset_dims, strict=True))
        return _choose_again(builder, eqn, values, sizes, at)
    if dims.operand_batching_dims:
        return builder.barrier(eqn, values, "parameters are taken by an index from the data")
    shown = [axis for axis in range(len(table.shape)) if axis not in dims.collapsed_slice_dims]
    return _look_up(builder, eqn, values, sizes, dict(zip(shown, dims.offset_dims, strict=True)))


def _dynamic_slice(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    table = values[0]
    if not _is_choice(table) or not traced(values[1:]):
        return MOVEMENTS["dynamic_slice"](builder, eqn, values)
    at = {axis: axis for axis in range(len(table.shape))}
    if isinstance(table, Traced):
        return _choose_again(builder, eqn, values, eqn.params["slice_sizes"], at)
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
    looked, rest = _looked(table.shape, sizes, at)
    made = table.made
    view = made.view if isinstance(made, Entries) and made.view.leaf in builder.kernels else None
    if view is None or not looked or any(sizes[axis] != 1 for axis in looked):
        return builder.barrier(eqn, values, "parameters are taken by an index from the data")
    if _count(table.shape, rest) > 1:  # an entry is a matrix: no row of a table
        kernels = _one_of(table, looked, at, out_shape(eqn))
        return _one_of_several(builder, eqn, values, kernels)
    layer = layer_of(builder, view, [(), looked, (), rest])
    if layer is None:
        return builder.barrier(eqn, values, "the table is not a part of one parameter")
    for index in traced(values):
        builder.consume(index, layer)
    builder.readings.append(Reading(layer, None))
    places = [at[axis] for axis in rest]
    return [output(layer, numbered(view, rest, places, out_shape(eqn)))]


def _choose_again(
    builder: GraphBuilder, eqn: JaxprEqn, values: list[Value], sizes: Sequence[int],
    at: Mapping[int, int],
) -> Sequence[Value]:  # fmt: skip
    """What data choose of a stack that data have chosen is one of the kernels of all stacks."""
    chosen = values[0]
    assert isinstance(chosen, Traced)
    looked, rest = _looked(chosen.shape, sizes, at)
    kernels: list[FromParams] = []
    if all(sizes[axis] == 1 for axis in looked) and _count(chosen.shape, rest) > 1:
        for stack in chosen.kernels:
            kernels += _one_of(stack, looked, at, out_shape(eqn))
    return _one_of_several(builder, eqn, values, kernels if len(kernels) <= MOST_MIXED else ())


def _one_of_several(
    builder: GraphBuilder, eqn: JaxprEqn, values: list[Value], kernels: Sequence[FromParams]
) -> Sequence[Value]:
    """Return what is one of several kernels, as the data say: a barrier, until it meets one."""
    (found,) = builder.barrier(eqn, values, _CHOSEN if _are_parts(builder, kernels) else _ACROSS)
    return [found._replace(kernels=tuple(kernels))]


def _count(shape: Sequence[int], axes: Sequence[int]) -> int:
    """Return along how many of the axes there is more than one entry."""
    return sum(shape[axis] > 1 for axis in axes)


def _is_choice(value: Value) -> bool:
    """Return whether data may choose of a value: of parameters, or of what they have chosen."""
    return isinstance(value, FromParams) or (isinstance(value, Traced) and bool(value.kernels))


def _are_parts(builder: GraphBuilder, kernels: Sequence[FromParams]) -> bool:
    """Return whether kernels are whole parts of their parameters, as those of layers are."""

    def is_part(kernel: FromParams) -> bool:
        if not isinstance(kernel.made, Entries):
            return True  # it may be made of parts: who contracts it sees
        view = kernel.made.view
        once = (size if by else 1 for size, by in zip(view.shape, view.strides, strict=True))
        return place_of(view._replace(shape=tuple(once)), builder.shapes[view.leaf]) is not None

    return all(map(is_part, kernels))


def _looked(
    shape: Sequence[int], sizes: Sequence[int], at: Mapping[int, int]
) -> tuple[list[int], list[int]]:
    """Return the axes along which something is taken, and the others."""
    looked = [i for i in range(len(shape)) if sizes[i] != shape[i] or i not in at]
    return looked, [axis for axis in range(len(shape)) if axis not in looked]


def _one_of(
    table: FromParams, looked: Sequence[int], at: Mapping[int, int], shape: tuple[int, ...]
) -> tuple[FromParams, ...]:  # fmt: skip
    """Return all that a lookup may give; none where that is too many.

    Along an axis that repeats, such as one of examples, there is nothing to choose.
    """
    rest = [axis for axis in range(len(table.shape)) if axis not in looked]
    sizes = [1 if repeats(table, axis) else table.shape[axis] for axis in looked]
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
    x = x._replace(value=_chosen_for(builder, value, chosen))
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
    value, found = _chosen_for(builder, value, chosen), []
    for each in chosen.kernels:
        found.append(convolved(builder, eqn, value, each, shape))
        builder.unseen()
    return total(builder, eqn, found)


def _chosen_for(builder: GraphBuilder, value: Traced, chosen: Traced) -> Traced:
    """Return what meets a chosen kernel: it depends on whatever chose, too."""
    settled = {_CHOSEN, _ACROSS} if _are_parts(builder, chosen.kernels) else {_CHOSEN}
    lost = (each for each in chosen.breaks if each.node or each.why not in settled)
    return value._replace(breaks=value.breaks.union(lost))


CHOOSING: dict[str, Rule] = {"gather": _gather, "dynamic_slice": _dynamic_slice}

"""Primitives that contract: kernels, which become layers, and activations with each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from lap_jax.graph.layers import IDENTITY
from lap_jax.tracing import channels
from lap_jax.tracing.applying import Labelled, contracted, convolved
from lap_jax.tracing.arithmetic import Rule, collapsed, mixed, product, total
from lap_jax.tracing.builder import GraphBuilder
from lap_jax.tracing.channels import CHANNELS
from lap_jax.tracing.choosing import contracted_with_one_of, convolved_with_one_of
from lap_jax.tracing.interpreter import out_shape
from lap_jax.tracing.movements import (
    Broadcast,
    Movement,
    Reshape,
    Take,
    Transpose,
    first,
    move,
    piece,
    without,
)
from lap_jax.tracing.sharing import one_head, weighed
from lap_jax.tracing.values import (
    Break,
    FromParams,
    Source,
    Traced,
    Value,
    breaks_of,
    moved,
    traced,
)

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

Axes: TypeAlias = tuple[Sequence[int], Sequence[int]]
DotDimensions: TypeAlias = tuple[Axes, Axes]
"""Axes of both operands that are contracted, and that are batches."""


class _Operand:
    """One side of a `dot_general`: which of its axes are contracted, and where the others go.

    Attributes:
      value: the operand.
      gone, batch, free: its axes.
      at: axes of the result, of batch and free axes.
      labels: a name for each axis, shared with the other side where the two go together.
    """

    def __init__(self, numbers: DotDimensions, values: Sequence[Value], side: int):
        contract, batch = numbers
        self.value = values[side]
        self.gone, self.batch = tuple(contract[side]), tuple(batch[side])
        self.free = _others(len(self.value.shape), self.gone, self.batch)
        before = 0 if side == 0 else len(_others(len(values[0].shape), contract[0], batch[0]))
        n = len(self.batch)
        self.at = [*range(n), *range(n + before, n + before + len(self.free))]
        names = {axis: f"contracted {place}" for place, axis in enumerate(self.gone)}
        names |= {axis: f"batch {place}" for place, axis in enumerate(self.batch)}
        names |= {axis: f"axis {axis} of {side}" for axis in self.free}
        self.labels = tuple(names[axis] for axis in range(len(names)))

    def passed_on(self, shape: tuple[int, ...]) -> Movement:
        """How it moves to the result, if nothing changes along the axes that are contracted."""
        return without(self.value.shape, self.gone, shape, self.at, (*self.batch, *self.free))


def _sides(numbers: DotDimensions, values: Sequence[Value]) -> list[_Operand]:
    return [_Operand(numbers, values, side) for side in (0, 1)]


def _others(count: int, *groups: Sequence[int]) -> tuple[int, ...]:
    """Return the axes, of so many, that are in none of the groups."""
    return tuple(axis for axis in range(count) if not any(axis in group for group in groups))


def _dot(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    sides, shape = _sides(eqn.params["dimension_numbers"], values), out_shape(eqn)
    if len(traced(values)) == 2:
        chosen = [bool(value.kernels) for value in traced(values)]
        if sum(chosen) == 1:
            one, two = (Labelled(side.value, side.labels) for side in sides)
            x, one_of = (one, two) if chosen[1] else (two, one)
            return [contracted_with_one_of(builder, eqn, x, one_of, _result_labels(sides))]
        return [_meet(builder, eqn, values)]
    own, other = sides if isinstance(values[0], Traced) else reversed(sides)
    value, kernel = own.value, other.value
    assert isinstance(value, Traced)
    assert isinstance(kernel, FromParams)
    if kernel.is_constant:
        if not value.sources:
            return [value._replace(shape=shape, gain=(), heads=(), kernels=(), asked=())]
        if value.is_constant(own.gone):
            return [moved(value._replace(heads=(), asked=()), own.passed_on(shape), shape)]
        return builder.barrier(eqn, values, "it mixes the channels by a constant matrix")
    return [contracted(builder, eqn, Labelled(value, own.labels), Labelled(kernel, other.labels),
                       _result_labels(sides))]  # fmt: skip


def _result_labels(sides: Sequence[_Operand]) -> tuple[str, ...]:
    found = {
        at: side.labels[axis]
        for side in sides
        for at, axis in zip(side.at, (*side.batch, *side.free), strict=True)
    }
    return tuple(found[axis] for axis in range(len(found)))


def _meet(builder: GraphBuilder, eqn: JaxprEqn, values: Sequence[Value]) -> Traced:
    """Multiply activations: values by attention weights, or queries by keys."""
    values = [
        collapsed(builder, value, eqn) if len(value.sources) > 1 else value
        for value in traced(values)
    ]
    numbers, shape = eqn.params["dimension_numbers"], out_shape(eqn)
    sides, breaks = _sides(numbers, values), breaks_of(values)
    mixes = [_mixes(side) for side in sides]
    if sum(mixes) == 1:
        place = mixes.index(True)
        whole = _mixture(builder, eqn, sides[place])
        if whole is not None:
            values[place], mixes[place] = whole, False
            sides = _sides(numbers, values)
    if all(mixes):
        name, ids = _pair(builder, eqn, sides)
        if _weighs_positions(sides):
            builder.connect_identity(name, IDENTITY)
            return Traced(shape, breaks=breaks, heads=(one_head(builder, name, ids, len(shape)),))
        return Traced(shape, (_summed(builder, eqn, name, ids, len(shape)),), breaks=breaks)
    kept = []
    for value, side, lost in zip(traced(values), sides, mixes, strict=True):
        for source in value.sources:
            if lost:
                why = "it mixes the channels by weights that depend on the data"
                line = builder.where(eqn)
                breaks |= {Break(source.node, eqn.primitive.name, line, why)}
            else:
                ids = move(CHANNELS, source.ids, side.passed_on(shape))
                kept.append(Traced(shape, (source._replace(ids=ids, linear=False),)))
    heads = [
        head._replace(ids=move(CHANNELS, head.ids, side.passed_on(shape)))
        for value, side in zip(traced(values), sides, strict=True)
        for head in value.heads
        if channels.constant(head.ids, side.gone)
    ]
    weighed(builder, heads, [source for value in kept for source in value.sources])
    if not kept:
        return Traced(shape, unit=any(value.unit for value in traced(values)), breaks=breaks)
    found = kept[0] if len(kept) == 1 else product(builder, eqn, *kept)
    return found._replace(breaks=breaks, asked=tuple(heads))


def _mixes(side: _Operand) -> bool:
    """Return whether several channels of an activation meet where it is contracted."""
    (value,) = traced([side.value])
    return not all(channels.constant(source.ids, side.gone) for source in value.sources)


def _mixture(builder: GraphBuilder, eqn: JaxprEqn, side: _Operand) -> Traced | None:
    """Return the sums of channels that a mixture gives: of experts, by weights from the data.

    None where no channels are left beside those that are contracted: then what comes of it weighs
    positions, as queries do.
    """
    (value,) = traced([side.value])
    stay = any(not channels.constant(source.ids, side.free) for source in value.sources)
    return mixed(builder, eqn, value, side.gone) if stay else None


def _weighs_positions(sides: Sequence[_Operand]) -> bool:
    """Return whether positions meet positions, as queries do keys: what comes of it weighs these.

    Otherwise channels come of it: it is a mixture, by weights from the data, or a bilinear form.
    """
    constant = [
        [value.is_constant([axis]) for axis in side.free]
        for side in sides
        for value in traced([side.value])
    ]
    one, two = constant
    if one and two:
        return any(one) and any(two)
    return bool(one or two) and all(one) and all(two)


def _summed(builder: GraphBuilder, eqn: JaxprEqn, name: str, ids: np.ndarray, count: int) -> Source:
    """Add up the channels of a product along all axes but the first ``count``."""
    places = np.ndindex(*ids.shape[count:])
    columns = [ids[(..., *place)] for place in places]
    numbers, rows = channels.distinct(columns, len(columns))
    sources = [Source(name, column) for column in columns]
    total = builder.junction("sum", rows, sources, builder.where(eqn))
    return Source(total, numbers, 1.0, False)


def _pair(
    builder: GraphBuilder, eqn: JaxprEqn, sides: Sequence[_Operand]
) -> tuple[str, np.ndarray]:
    """Let channels meet that are contracted with each other.

    Returns:
      The name of the product, and its channels along the axes of the result and those that are
      contracted.
    """
    n, gone = len(out_shape(eqn)), sides[0].gone
    full = (*out_shape(eqn), *(sides[0].value.shape[axis] for axis in gone))
    sources, columns = [], []
    for side in sides:
        (value,) = traced([side.value])
        (source,) = value.sources
        order = Transpose((*side.batch, *side.free, *side.gone))
        spread = Broadcast(full, (*side.at, *range(n, len(full))))
        sources.append(source)
        columns.append(move(CHANNELS, source.ids, (order, spread)))
    numbers, rows = channels.distinct(columns, 2)
    return builder.junction("product", rows, sources, builder.where(eqn)), numbers


def _convolve(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    params, (value, kernel), shape = eqn.params, values, out_shape(eqn)
    if isinstance(value, Traced) and isinstance(kernel, Traced) and kernel.kernels:
        return [convolved_with_one_of(builder, eqn, value, kernel, shape)]
    if not isinstance(value, Traced) or not isinstance(kernel, FromParams):
        return builder.barrier(eqn, values, "the kernel depends on the data")
    dims, groups = params["dimension_numbers"], params["feature_group_count"]
    _, feature, *spatial = dims.lhs_spec
    features, outputs = value.shape[feature], shape[dims.out_spec[1]]
    if kernel.is_constant and value.is_constant(spatial) and groups == features:  # a fixed blur
        repeated = np.repeat(np.arange(features), outputs // features)
        order = np.argsort([dims.out_spec[dims.lhs_spec.index(i)] for i in range(len(shape))])
        movement: Movement = (
            first(value.shape, spatial),
            Take(repeated, feature),
            Transpose(tuple(order.tolist())),
            Broadcast(shape, tuple(range(len(shape)))),
        )
        return [moved(value, movement, shape)]
    return [convolved(builder, eqn, value, kernel, shape)]


def _ragged_dot(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    """A kernel for each group of rows, of sizes that the data say: each row meets one of them."""
    value, kernel, numbers = values[0], values[1], eqn.params["ragged_dot_dimension_numbers"]
    contract, batch = numbers.dot_dimension_numbers
    groups = tuple(numbers.rhs_group_dimensions)
    if not isinstance(value, Traced) or not isinstance(kernel, FromParams) or len(groups) != 1:
        return builder.barrier(eqn, values, "its groups are not those of a kernel")
    (group,), found = groups, list[Traced]()
    shape = tuple(size for axis, size in enumerate(kernel.shape) if axis != group)
    contract_two, batch_two = (
        tuple(axis - (axis > group) for axis in axes) for axes in (contract[1], batch[1])
    )
    own = ((tuple(contract[0]), contract_two), (tuple(batch[0]), batch_two))
    for place in range(kernel.shape[group]):
        movement = (*piece(kernel.shape, group, place, place + 1), Reshape(shape))
        sides = _sides(own, [value, moved(kernel, movement, shape)])
        one, two = (Labelled(side.value, side.labels) for side in sides)
        found.append(contracted(builder, eqn, one, two, _result_labels(sides), is_input=False))
    return [total(builder, eqn, found)]


CONTRACTING: dict[str, Rule] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolve,
    "ragged_dot_general": _ragged_dot,
}

"""Primitives that contract: kernels, which become layers, and activations with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jax.extend.core import JaxprEqn

from lap_jax.graph.layers import IDENTITY
from lap_jax.tracing import channels
from lap_jax.tracing.arithmetic import Rule, collapsed, product
from lap_jax.tracing.builder import GraphBuilder, Reading
from lap_jax.tracing.channels import CHANNELS
from lap_jax.tracing.interpreter import out_shape
from lap_jax.tracing.kernels import enter, layer_of, numbered, output
from lap_jax.tracing.movements import (
    Broadcast,
    Movement,
    Take,
    Transpose,
    first,
    move,
    without,
)
from lap_jax.tracing.moving import MOVEMENTS
from lap_jax.tracing.values import Break, FromParams, Traced, Value, moved, traced
from lap_jax.tracing.views import View


def _unread(
    builder: GraphBuilder, eqn: JaxprEqn, values: Sequence[Value], kernel: FromParams
) -> Sequence[Value]:
    """Lose all channels at a kernel that is made of parameters in another way."""
    why = "its kernel is not just one parameter or a part of it, and is not in the graph"
    names = [leaf.removesuffix("/kernel") for leaf in sorted(kernel.leaves)]
    found = Break("", eqn.primitive.name, builder.where(eqn), why)
    builder.report(found, names, names)
    builder.leave(kernel.leaves, why, builder.where(eqn))
    return builder.barrier(eqn, values, why)


def _kernel(builder: GraphBuilder, value: FromParams) -> View | None:
    """Return the view that a kernel is, if it is one."""
    view = value.kernel
    return view if view is not None and view.leaf in builder.kernels else None


class _Operand:
    """One side of a `dot_general`: which of its axes are contracted, and where the others go.

    Attributes:
      value: the operand.
      gone, batch, free: its axes.
      at: axes of the result, of batch and free axes.
    """

    def __init__(self, eqn: JaxprEqn, values: Sequence[Value], side: int):
        contract, batch = eqn.params["dimension_numbers"]
        self.value = values[side]
        self.gone, self.batch = tuple(contract[side]), tuple(batch[side])
        self.free = _others(len(self.value.shape), self.gone, self.batch)
        before = 0 if side == 0 else len(_others(len(values[0].shape), contract[0], batch[0]))
        n = len(self.batch)
        self.at = [*range(n), *range(n + before, n + before + len(self.free))]

    def passed_on(self, shape: tuple[int, ...]) -> Movement:
        """How it moves to the result, if nothing changes along the axes that are contracted."""
        return without(self.value.shape, self.gone, shape, self.at, (*self.batch, *self.free))


def _others(count: int, *groups: Sequence[int]) -> tuple[int, ...]:
    """Return the axes, of so many, that are in none of the groups."""
    return tuple(axis for axis in range(count) if not any(axis in group for group in groups))


def _dot(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    sides, shape = [_Operand(eqn, values, side) for side in (0, 1)], out_shape(eqn)
    if len(traced(values)) == 2:
        return [_meet(builder, eqn, values)]
    own, other = sides if isinstance(values[0], Traced) else reversed(sides)
    value, kernel = own.value, other.value
    assert isinstance(value, Traced)
    assert isinstance(kernel, FromParams)
    if kernel.is_constant:
        if not value.sources:
            return [value._replace(shape=shape, gain=())]
        if value.is_constant(own.gone):
            return [moved(value, own.passed_on(shape), shape)]
        return builder.barrier(eqn, values, "it mixes the channels by a constant matrix")
    view = _kernel(builder, kernel)
    layer = view and layer_of(builder, view, [(), other.gone, other.batch, other.free])
    if view is None or layer is None:
        return _unread(builder, eqn, values, kernel)
    # The kernel's inputs, along the axes of the activation that they are paired with.
    axes, at = (*other.batch, *other.gone), (*own.batch, *own.gone)
    enter(builder, value, numbered(view, axes, at, value.shape, other.batch), layer)
    axes = (*other.batch, *other.free)
    return [output(layer, numbered(view, axes, other.at, shape, other.batch))]


def _meet(builder: GraphBuilder, eqn: JaxprEqn, values: Sequence[Value]) -> Traced:
    """Multiply activations: values by attention weights, or queries by keys."""
    values = [
        collapsed(builder, value, eqn) if len(value.sources) > 1 else value
        for value in traced(values)
    ]
    sides, shape = [_Operand(eqn, values, side) for side in (0, 1)], out_shape(eqn)
    breaks = frozenset().union(*(value.breaks for value in traced(values)))
    mixed = [
        not all(channels.constant(source.ids, side.gone) for source in value.sources)
        for value, side in zip(traced(values), sides, strict=True)
    ]
    if all(mixed):
        _pair(builder, eqn, sides)
        return Traced(shape, breaks=breaks)
    kept = []
    for value, side, mixes in zip(traced(values), sides, mixed, strict=True):
        for source in value.sources:
            if mixes:
                why = "it mixes the channels by weights that depend on the data"
                line = builder.where(eqn)
                breaks |= {Break(source.node, eqn.primitive.name, line, why)}
            else:
                ids = move(CHANNELS, source.ids, side.passed_on(shape))
                kept.append(Traced(shape, (source._replace(ids=ids, linear=False),)))
    if not kept:
        return Traced(shape, unit=any(value.unit for value in traced(values)), breaks=breaks)
    found = kept[0] if len(kept) == 1 else product(builder, eqn, *kept)
    return found._replace(breaks=breaks)


def _pair(builder: GraphBuilder, eqn: JaxprEqn, sides: Sequence[_Operand]) -> None:
    """Let channels meet that are contracted with each other; what comes of it has none."""
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
    _, rows = channels.distinct(columns, 2)
    name = builder.junction("product", rows, sources, builder.where(eqn))
    builder.connect_identity(name, IDENTITY)


def _convolve(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    params, (value, kernel), shape = eqn.params, values, out_shape(eqn)
    if not isinstance(value, Traced) or not isinstance(kernel, FromParams):
        return builder.barrier(eqn, values, "the kernel depends on the data")
    dims, groups = params["dimension_numbers"], params["feature_group_count"]
    (_, feature, *spatial), (out, into, *window) = dims.lhs_spec, dims.rhs_spec
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
    view, layer = _kernel(builder, kernel), None
    if view is not None and params["batch_group_count"] == 1:
        strides = max(params["window_strides"], default=1)
        layer = layer_of(builder, view, [window, (into,), (), (out,)], strides, groups)
    if layer is None:
        return _unread(builder, eqn, values, kernel)
    if max(params["rhs_dilation"], default=1) > 1 or len(set(params["window_strides"])) > 1:
        builder.layers[layer] = replace(builder.layers[layer], strides=0)
    enter(builder, value, channels.numbered(value.shape, [feature], [features]), layer)
    return [output(layer, channels.numbered(shape, [dims.out_spec[1]], [outputs]))]


def _gather(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    """A lookup in a table of parameters is a layer that reads one-hot inputs."""
    table, index = values
    if not isinstance(table, FromParams) or not isinstance(index, Traced):
        return MOVEMENTS["gather"](builder, eqn, values)
    dims, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    looked = tuple(dims.collapsed_slice_dims)
    rest = _others(len(table.shape), looked)
    whole = all(sizes[axis] == table.shape[axis] for axis in rest) and looked
    view = _kernel(builder, table)
    if view is None or not whole or dims.operand_batching_dims:
        return builder.barrier(eqn, values, "parameters are taken by an index from the data")
    layer = layer_of(builder, view, [(), looked, (), rest])
    if layer is None:
        return builder.barrier(eqn, values, "the table is not a part of one parameter")
    builder.consume(index, layer)
    builder.readings.append(Reading(layer, None))
    return [output(layer, numbered(view, rest, dims.offset_dims, out_shape(eqn)))]


CONTRACTING: dict[str, Rule] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolve,
    "gather": _gather,
}

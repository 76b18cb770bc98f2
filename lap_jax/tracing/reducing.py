"""Primitives that make one element of several: reductions, windows, and what goes along an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lap_jax.tracing import channels
from lap_jax.tracing.arithmetic import Rule, bent, mixed
from lap_jax.tracing.builder import GraphBuilder
from lap_jax.tracing.channels import CHANNELS
from lap_jax.tracing.interpreter import out_shape
from lap_jax.tracing.movements import Movement, move, spread, without
from lap_jax.tracing.values import Break, Traced, Value, moved, traced

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

REDUCTION = frozenset(
    ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or",
     "reduce_xor", "argmax", "argmin")
)  # fmt: skip
WINDOW = frozenset(["reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min"])
ALONG = frozenset(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort"))


def _reduce(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    """A reduction keeps channels apart where there is one along its axes."""
    (value,), axes = traced(values), eqn.params["axes"]
    count = math.prod(value.shape[axis] for axis in axes)
    shape = out_shape(eqn)
    movement = without(value.shape, axes, shape, range(len(shape)))
    found = _put_together(builder, eqn, value, axes, movement, count)
    return [found._replace(unit=value.unit and not found.breaks)]


def _window(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    """Pooling, along axes with one channel each; a window of one moves data only."""
    value = values[0]
    if not isinstance(value, Traced):
        return builder.barrier(eqn, values, "it mixes the channels")
    window, shape = eqn.params["window_dimensions"], out_shape(eqn)
    axes = [
        axis for axis, size in enumerate(window) if size > 1 or shape[axis] != value.shape[axis]
    ]
    movement = spread(value.shape, axes, shape)
    found = _put_together(builder, eqn, value, axes, movement, math.prod(window))
    thinned = max(eqn.params["window_strides"])
    sources = [source._replace(pool=source.pool * thinned) for source in found.sources]
    return [found._replace(sources=tuple(sources))]


def _put_together(
    builder: GraphBuilder, eqn: JaxprEqn, value: Traced, axes: Sequence[int], movement: Movement,
    count: int,
) -> Traced:  # fmt: skip
    """Return the sum of ``count`` elements along axes, or another function of them.

    A sum of elements that know nothing of each other grows with the root of their number.
    """
    sums = eqn.primitive.name in ("reduce_sum", "reduce_window_sum")
    name = (id(eqn), *builder.calls) if eqn.primitive.name == "reduce_sum" else None
    if name in builder.sums:
        alone = [axis for axis in axes if not value.is_constant([axis])]
        whole = mixed(builder, eqn, value, alone)
        if whole is not None:
            value, count = whole, count // math.prod(value.shape[axis] for axis in alone)
    breaks, sources = set(value.breaks), []
    for source in value.sources:
        if not channels.constant(source.ids, axes):
            line = builder.where(eqn)
            breaks.add(Break(source.node, eqn.primitive.name, line, "it mixes the channels", name))
            continue
        scale = source.scale * math.sqrt(count) if sums else source.scale
        ids = move(CHANNELS, source.ids, movement)
        sources.append(source._replace(ids=ids, scale=scale, linear=source.linear and sums))
    heads = tuple(
        head._replace(ids=move(CHANNELS, head.ids, movement))
        for head in value.heads
        if channels.constant(head.ids, axes)
    )
    return Traced(out_shape(eqn), tuple(sources), (), value.unit, frozenset(breaks), heads)


def _along(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    """Cumulative sums and sorting, along an axis with one channel."""
    axis = eqn.params.get("axis", eqn.params.get("dimension", 0))
    if len(values) == 1 and all(value.is_constant([axis]) for value in traced(values)):
        return [bent(builder, eqn, values)]
    return builder.barrier(eqn, values, "it mixes the channels")


def _top(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    """The largest along an axis with one channel, such as tokens, and where they are."""
    (value,), shape = traced(values), out_shape(eqn)
    axis = eqn.params.get("axis", len(shape) - 1) % len(shape)
    if not value.is_constant([axis]):
        return builder.barrier(eqn, values, "it takes channels in an order that the data say")
    found = moved(value, spread(value.shape, [axis], shape), shape)
    assert isinstance(found, Traced)
    return [found.bent(), Traced(shape, unit=value.unit)]


REDUCING: dict[str, Rule] = {
    **dict.fromkeys(REDUCTION, _reduce),
    **dict.fromkeys(WINDOW, _window),
    **dict.fromkeys(ALONG, _along),
    "top_k": _top,
}

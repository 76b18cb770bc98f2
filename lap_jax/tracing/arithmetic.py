"""Primitives that go element by element: sums, products and functions of activations."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from lap_jax.graph.layers import IDENTITY
from lap_jax.tracing import channels, views
from lap_jax.tracing.builder import GraphBuilder
from lap_jax.tracing.channels import NONE
from lap_jax.tracing.interpreter import out_shape, out_shapes
from lap_jax.tracing.parameters import LINEAR, inverse, raised, rms
from lap_jax.tracing.sharing import both_heads, weighed
from lap_jax.tracing.values import (
    Break,
    FromParams,
    Power,
    Source,
    Traced,
    Value,
    breaks_of,
    fit,
    opaque,
    traced,
)

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

Rule: TypeAlias = "Callable[[GraphBuilder, JaxprEqn, list[Value]], Sequence[Value]]"
"""What a primitive makes of values, of which at least one is `Traced`."""

ELEMENTWISE = frozenset(
    ("max", "min", "abs", "sign", "exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic",
     "erf", "erfc", "erf_inv", "sin", "cos", "tan", "asin", "acos", "atan", "sinh",
     "cosh", "asinh", "acosh",
     "atanh", "sqrt", "rsqrt", "cbrt", "square", "integer_pow", "round", "floor", "ceil", "clamp",
     "pow", "rem", "atan2", "nextafter", "lgamma", "digamma", "is_finite", "not", "and", "or",
     "xor", "population_count", "shift_left", "shift_right_logical", "shift_right_arithmetic")
)  # fmt: skip
MOST_MIXED = 1024
"""Channels that a sum of channels of one activation is made of; beyond, they are not followed."""
COMPARISON = frozenset(("eq", "ne", "lt", "le", "gt", "ge", "lt_to", "le_to", "eq_to"))


def added(builder: GraphBuilder, eqn: JaxprEqn, a: Traced, b: Traced, sign: float = 1.0) -> Traced:
    """Add activations of one shape; see `either` for a ``sign`` of 0."""
    unit, breaks = a.unit or b.unit, _absorbed(builder, a, b)
    sources = list(a.sources)
    for new in b.sources:
        for place, old in enumerate(sources):
            if old.carries_the_same(new):
                linear = old.linear and new.linear and sign != 0
                scale = abs(old.scale + sign * new.scale) if linear else max(old.scale, new.scale)
                pool = max(old.pool, new.pool)
                sources[place] = old._replace(scale=scale, linear=linear, pool=pool)
                break
        else:
            sources.append(new)
    one_is_all = len(sources) in (len(a.sources), len(b.sources))
    if one_is_all and not (unit and sources and a.unit != b.unit):
        gain = a.gain if not b.gain else b.gain if not a.gain else ()
        heads = () if sources else both_heads(a.heads, b.heads)
        return Traced(a.shape, tuple(sources), () if sources else gain, unit, breaks, heads)
    merged = Traced(a.shape, tuple(sources), (), unit, breaks)
    return collapsed(builder, merged, eqn) if unit or _overlap(merged) else merged


def total(builder: GraphBuilder, eqn: JaxprEqn, values: Sequence[Traced]) -> Traced:
    """Add activations of one shape, in one junction where several layers meet."""
    sources: list[Source] = []
    for new in (source for value in values for source in value.sources):
        place = next((i for i, old in enumerate(sources) if old.carries_the_same(new)), None)
        if place is None:
            sources.append(new)
        else:
            sources[place] = new._replace(scale=sources[place].scale + new.scale)
    unit = any(value.unit for value in values)
    found = Traced(values[0].shape, tuple(sources), (), unit, breaks_of(values))
    return collapsed(builder, found, eqn) if sources and (unit or _overlap(found)) else found


def either(builder: GraphBuilder, eqn: JaxprEqn, values: Sequence[Value]) -> Value:
    """Return what is one of several values, of one shape, or a function of all activations."""
    found = traced(values)
    if not found:
        same = all(value == values[0] for value in values)
        constants = all(isinstance(value, FromParams) and value.is_constant for value in values)
        return values[0] if same or constants else opaque(values, values[0].shape)
    return functools.reduce(lambda a, b: added(builder, eqn, a, b, 0.0), found)


def bent(builder: GraphBuilder, eqn: JaxprEqn, values: Sequence[Value]) -> Traced:
    """Return the result of a function that is not linear, of activations of the same channels."""
    shape = out_shape(eqn)
    found = either(builder, eqn, [fit(value, shape) for value in traced(values)])
    assert isinstance(found, Traced)
    return found.bent()._replace(gain=raised(found.gain, eqn))


def _overlap(value: Traced) -> bool:
    """Return whether some element holds channels of more than one source."""
    held = [channels.small(source.ids) != NONE for source in value.sources]
    if len(held) < 2:
        return False
    counts = functools.reduce(lambda a, b: a + b, (each.astype(np.int8) for each in held))
    return bool((counts > 1).any())


def _absorbed(builder: GraphBuilder, a: Traced, b: Traced) -> frozenset[Break]:
    """Return the breaks of two activations that meet, less those that one is a statistic of.

    The mean that is taken from what it is the mean of, and the variance that it is divided by, take
    no channel away.
    """
    roots = {builder.root(source.node) for value in (a, b) for source in value.sources}
    return frozenset(
        each
        for each in a.breaks | b.breaks
        if not each.node or builder.root(each.node) not in roots
    )


def collapsed(builder: GraphBuilder, value: Traced, eqn: JaxprEqn) -> Traced:
    """Return the activation with a junction in place of several sources."""
    if len(value.sources) == 1 and not value.unit:
        return value
    return _scaled_by(builder, value, (), eqn)


def mixed(
    builder: GraphBuilder, eqn: JaxprEqn, value: Traced, axes: Sequence[int]
) -> Traced | None:
    """Return an activation with sums of its channels, so that none change along axes.

    Where data say how much of each is taken, or which one, it is the sum all the same. None where
    too many channels would meet in each.
    """
    sources = []
    for source in value.sources:
        along = [axis for axis in axes if not channels.constant(source.ids, [axis])]
        sizes = [value.shape[axis] for axis in along]
        if math.prod(sizes) > MOST_MIXED:
            return None
        if along:
            spread = np.moveaxis(source.ids, along, range(len(along)))
            columns = [
                channels.held(np.expand_dims(spread[place], along), value.shape)
                for place in np.ndindex(*sizes)
            ]
            numbers, rows = channels.distinct(columns, len(columns))
            parts = [source._replace(ids=column) for column in columns]
            name = builder.junction("sum", rows, parts, builder.where(eqn))
            source = source._replace(node=name, ids=numbers, scale=1.0)
        sources.append(source)
    return value._replace(sources=tuple(sources))


def product(builder: GraphBuilder, eqn: JaxprEqn, a: Traced, b: Traced) -> Traced:
    """Multiply two activations of one shape: a gate, or a normaliser."""
    breaks, unit = _absorbed(builder, a, b), a.unit or b.unit
    if not a.sources and not b.sources:
        heads = both_heads(a.heads, b.heads)
        return Traced(a.shape, (), a.gain + b.gain, unit, breaks, heads)
    if not a.sources or not b.sources:
        value, other = (a, b) if a.sources else (b, a)
        value = value._replace(sources=value.bent().sources, breaks=breaks)
        weighed(builder, other.heads, value.sources)
        return _scaled_by(builder, value, other.gain, eqn) if other.gain else value
    for one, other in ((a, b), (b, a)):
        if all(any(old.carries_the_same(new) for old in one.sources) for new in other.sources):
            return Traced(a.shape, one.bent().sources, (), unit, breaks)
    (one_source,), (other_source,) = (collapsed(builder, value, eqn).sources for value in (a, b))
    sources = one_source, other_source
    numbers, rows = channels.distinct([source.ids for source in sources], 2)
    name = builder.junction("product", rows, sources, builder.where(eqn))
    pool = max(source.pool for source in sources)
    return Traced(a.shape, (Source(name, numbers, 1.0, False, pool),), (), False, breaks)


def _scaled_by(
    builder: GraphBuilder, value: Traced, powers: tuple[Power, ...], eqn: JaxprEqn
) -> Traced:
    """Return the activation behind a junction of its sources, multiplied by parameters if any."""
    sources = value.sources
    columns = [source.ids for source in sources]
    for power in powers:
        axes = [axis for axis, by in enumerate(power.view.strides) if by]
        columns.append(channels.held(views.entries(power.view, axes), value.shape))
    numbers, rows = channels.distinct(columns, len(sources))
    alone = len(sources) == 1 and not value.unit
    name = builder.junction("sum", rows, sources, builder.where(eqn), powers, scales_only=alone)
    if value.unit:
        builder.connect_identity(IDENTITY, name)
    linear = all(source.linear for source in sources)
    pool = max(source.pool for source in sources)
    return value._replace(sources=(Source(name, numbers, 1.0, linear, pool),), unit=False)


def scaled(builder: GraphBuilder, eqn: JaxprEqn, value: Traced, known: FromParams) -> Traced:
    """Multiply an activation by what does not depend on the input."""
    if known.powers is None:
        why = "the factor is not a product of powers of parameters"
        builder.lose(Break("", eqn.primitive.name, builder.where(eqn), why), [value])
        builder.leave(known.leaves, why, builder.where(eqn))
        return value
    size = rms(known) if known.is_constant else known.scale
    sources = tuple(source._replace(scale=source.scale * size) for source in value.sources)
    value = value._replace(sources=sources)
    if not known.powers:
        return value
    if not sources:
        return value._replace(gain=(*value.gain, *known.powers))
    return _scaled_by(builder, value, known.powers, eqn)


# ---------------------------------------------------------------- rules


def _add(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    a, b = (fit(value, out_shape(eqn)) for value in values)
    if isinstance(a, Traced) and isinstance(b, Traced):
        return [added(builder, eqn, a, b, -1.0 if eqn.primitive.name == "sub" else 1.0)]
    (value,) = traced((a, b))
    return [value._replace(gain=())]  # the other is a bias


def _multiply(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    a, b = (fit(value, out_shape(eqn)) for value in values)
    divides = eqn.primitive.name == "div"
    if isinstance(a, Traced) and isinstance(b, Traced):
        return [product(builder, eqn, a, b)]
    if isinstance(a, Traced):
        assert isinstance(b, FromParams)
        return [scaled(builder, eqn, a, inverse(b) if divides else b)]
    assert isinstance(a, FromParams)
    assert isinstance(b, Traced)
    return [scaled(builder, eqn, b.bent() if divides else b, a)]


def _select(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    """`select_n`: one or the other; which one is no source."""
    cases = [fit(value, out_shape(eqn)) for value in values[1:]]
    if not traced(cases):
        return _compare(builder, eqn, values)
    found = either(builder, eqn, cases)
    assert isinstance(found, Traced)
    return [found.bent()]


def _keep(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    """The same numbers, up to their sign and a rounding."""
    return [fit(*pair) for pair in zip(values, out_shapes(eqn), strict=True)]


def _bend(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    return [bent(builder, eqn, values)]


def _compare(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    """Truth values pass no channel on."""
    return [Traced(out_shape(eqn), unit=any(value.unit for value in traced(values)))]


ARITHMETIC: dict[str, Rule] = {
    **dict.fromkeys(("add", "sub", "add_any"), _add),
    **dict.fromkeys(("mul", "div"), _multiply),
    "select_n": _select,
    **dict.fromkeys(LINEAR, _keep),
    **dict.fromkeys(ELEMENTWISE, _bend),
    **dict.fromkeys(COMPARISON, _compare),
}

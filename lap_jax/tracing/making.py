"""Kernels that are made of parameters: entry by entry, joined, summed, or multiplied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

from lap_jax.tracing import views
from lap_jax.tracing.interpreter import out_shape
from lap_jax.tracing.movements import Transpose, step_shape
from lap_jax.tracing.parameters import OF_PARAMETERS, ParameterRule, rms
from lap_jax.tracing.values import (
    Entries,
    FromParams,
    Joined,
    Made,
    Product,
    Sum,
    Value,
    fit,
    joined,
    moved,
    opaque,
    stacked,
)

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

_SCALING = frozenset(("mul", "div"))
_SUMS = frozenset(("add", "sub", "add_any"))


def entrywise(eqn: JaxprEqn, values: list[FromParams]) -> Sequence[Value]:
    """What goes element by element leaves each entry of a leaf in its place.

    Beside the leaf there may be constants, what the leaf is as a whole, such as its mean, and, in a
    product, parameters that change along fewer axes.
    """
    shape = out_shape(eqn)
    parts = [part for part in (fit(value, shape) for value in values) if _is_known(part)]
    return [opaque(values, shape)._replace(how=_made(eqn.primitive.name, parts))]


def _is_known(value: Value) -> TypeGuard[FromParams]:
    return isinstance(value, FromParams) and not value.is_constant


def _made(name: str, parts: Sequence[FromParams]) -> Made | None:
    """Return how the result of an elementwise primitive is made of parameters, of one shape."""
    made = [part.made for part in parts]
    entries = [each for each in made if isinstance(each, Entries)]
    views_of = {each.view for each in entries if views.size(each.view) == _most(entries)}
    if len(views_of) != 1 or len(entries) < sum(each is not None for each in made):
        return _sum(parts) if name in _SUMS else None
    (view,) = views_of
    gain, exact = next(each for each in entries if each.view == view)[1:]
    for place, (part, own) in enumerate(zip(parts, made, strict=True)):
        if isinstance(own, Entries) and own.view == view:
            exact = exact and own.exact
        elif name not in _SCALING:
            number = isinstance(own, Entries) and views.size(own.view) == 1
            if part.leaves - {view.leaf} and not number:
                return None
        elif part.powers and view.leaf not in part.leaves:
            sign = -1.0 if name == "div" and place else 1.0
            gain += tuple(power._replace(power=sign * power.power) for power in part.powers)
        else:
            exact = False
    return Entries(view, gain, exact)


def _sum(parts: Sequence[FromParams]) -> Made | None:
    """Return the sum of values, without biases of what is itself computed of parameters."""
    computed = [part for part in parts if isinstance(part.made, Product)]
    rows = [part for part in computed if isinstance(part.made, Product) and _is_row(part.made)]
    if computed and len(computed) < len(parts):
        parts = [
            part
            for part in parts
            if not isinstance(part.made, Entries) or (_is_whole(part) and not rows)
        ]
    if not all(_is_whole(part) for part in parts):
        return None
    return parts[0].made if len(parts) == 1 else Sum(tuple(_terms(parts)))


def _is_row(made: Product) -> bool:
    """Return whether a product is of one row, or column: as a learned query is, and no kernel."""
    sizes = [
        math.prod(
            side.shape[axis] for at, axis in made.free if at == place and not repeats(side, axis)
        )
        for place, side in enumerate(made.sides)
    ]
    return min(sizes) == 1


def repeats(value: FromParams, axis: int) -> bool:
    """Return whether a value is known to be the same all along an axis."""
    match value.made:
        case Entries(view, gain):
            return not any(each.strides[axis] for each in (view, *(power.view for power in gain)))
        case Sum(terms):
            return all(repeats(term, axis) for term in terms)
        case Joined(parts, along):
            return axis != along and all(repeats(part, axis) for part in parts)
        case Product(sides, _, free):
            place, own = free[axis]
            return repeats(sides[place], own)
    return False


def _most(entries: Sequence[Entries]) -> int:
    return max((views.size(each.view) for each in entries), default=0)


def _is_whole(value: FromParams) -> bool:
    """Return whether a value has an entry of its own, or a sum of such, at each place."""
    made = value.made
    if isinstance(made, Entries):
        return views.size(made.view) == math.prod(value.shape)
    return made is not None


def _terms(parts: Sequence[FromParams]) -> list[FromParams]:
    """Return the terms of a sum of sums."""
    found: list[FromParams] = []
    for part in parts:
        found += part.how.terms if isinstance(part.how, Sum) else [part]
    return found


def _times(eqn: JaxprEqn, values: list[FromParams]) -> Sequence[Value]:
    """A product of powers is one again; what several parameters make keeps a constant as scale."""
    (found,) = OF_PARAMETERS[eqn.primitive.name](eqn, values)
    if isinstance(found, FromParams) and found.powers is not None:
        return [found]
    known = [value for value in values if not value.is_constant]
    if len(known) == 1 and known[0].how and not isinstance(known[0].how, Entries):
        (number,) = (value for value in values if value.is_constant)
        if known[0].shape == out_shape(eqn) and math.prod(number.shape) == 1:
            size = rms(number)
            size = 1 / size if eqn.primitive.name == "div" and size else size
            return [known[0]._replace(scale=known[0].scale * size)]
    return entrywise(eqn, values)


def _powers_or_entries(eqn: JaxprEqn, values: list[FromParams]) -> Sequence[Value]:
    """A product of powers where there is a rule for it; else perhaps a leaf entry by entry."""
    if eqn.primitive.name in OF_PARAMETERS:
        (found,) = OF_PARAMETERS[eqn.primitive.name](eqn, values)
        if isinstance(found, FromParams) and found.powers is not None:
            return [found]
    return entrywise(eqn, values)


def _cast(eqn: JaxprEqn, values: list[FromParams]) -> Sequence[Value]:
    """The same numbers in another dtype; a leaf of truth values is a constant mask."""
    if values[0].powers and str(eqn.invars[0].aval.dtype) == "bool":  # type: ignore[attr-defined]
        return [FromParams(out_shape(eqn))]
    return OF_PARAMETERS[eqn.primitive.name](eqn, values)


def _select(eqn: JaxprEqn, values: list[FromParams]) -> Sequence[Value]:
    """`select_n`: one or the other, or numbers by what an entry is."""
    constant = all(value.is_constant for value in values[1:])
    return entrywise(eqn, values[:1] if constant else values[1:])


def _concatenate(eqn: JaxprEqn, values: list[FromParams]) -> Sequence[Value]:
    return [joined(values, eqn.params["dimension"])]


def _stack(eqn: JaxprEqn, values: list[FromParams]) -> Sequence[Value]:
    return [stacked(values, eqn.params["axis"])]


def _dot(eqn: JaxprEqn, values: list[FromParams]) -> Sequence[Value]:
    """`dot_general` of parameters: two layers, one after the other."""
    found = opaque(values, out_shape(eqn))
    contract, batch = eqn.params["dimension_numbers"]
    if any(value.made is None for value in values) or batch[0]:
        return [found]
    sides, free = [], []
    for place, (value, gone) in enumerate(zip(values, contract, strict=True)):
        order = Transpose((*(axis for axis in range(len(value.shape)) if axis not in gone), *gone))
        side = moved(value, (order,), step_shape(value.shape, order))
        assert isinstance(side, FromParams)
        sides.append(side)
        free += [(place, axis) for axis in range(len(value.shape) - len(gone))]
    return [found._replace(how=Product((sides[0], sides[1]), len(contract[0]), tuple(free)))]


MAKING: dict[str, ParameterRule] = {
    **dict.fromkeys(_SCALING, _times),
    **dict.fromkeys((*_SUMS, "sqrt", "rsqrt", "square", "integer_pow"), _powers_or_entries),
    "convert_element_type": _cast,
    "select_n": _select,
    "concatenate": _concatenate,
    "stack": _stack,
    "dot_general": _dot,
}
"""Of primitives that make a kernel of parameters."""

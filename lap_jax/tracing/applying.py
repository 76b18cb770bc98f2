"""What a kernel makes of an activation, whatever it is made of: layers, their sums and rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from lap_jax.tracing import channels, views
from lap_jax.tracing.arithmetic import scaled, total
from lap_jax.tracing.builder import GraphBuilder
from lap_jax.tracing.kernels import enter, layer_of, numbered, output
from lap_jax.tracing.making import repeats
from lap_jax.tracing.movements import (
    Broadcast,
    Movement,
    Reshape,
    Transpose,
    first,
    piece,
)
from lap_jax.tracing.values import (
    Break,
    Entries,
    FromParams,
    Joined,
    Power,
    Product,
    Sum,
    Traced,
    Value,
    joined,
    moved,
)
from lap_jax.tracing.views import View

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

_SCALES = "it multiplies a kernel"
NOT_READ = "its kernel is not just one parameter or a part of it, and is not in the graph"


class Labelled(NamedTuple):
    """A value with a name for each of its axes: those that two share go together."""

    value: Value
    labels: tuple[str, ...]

    def at(self, labels: Sequence[str]) -> list[int]:
        """Return the axes of these names."""
        return [self.labels.index(label) for label in labels]


def contracted(
    builder: GraphBuilder, eqn: JaxprEqn, x: Labelled, kernel: Labelled, result: tuple[str, ...],
    is_input: bool = True,
) -> Traced:  # fmt: skip
    """Contract an activation with a kernel, along the axes that the result lacks.

    A row of kernels gives a row of results, or is met by the parts of the activation one by one; a
    sum gives a sum, a product is two layers one after the other.

    Args:
      builder, eqn: where layers are added, and the equation that contracts.
      x, kernel: the activation, and parameters.
      result: names of the axes of the result.
      is_input: whether the activation is what goes into the equation.
    """
    kernel = _without_repeats(x, kernel, result)
    value, params = x.value, kernel.value
    assert isinstance(value, Traced)
    assert isinstance(params, FromParams)
    sizes = {
        label: size
        for own in (x, kernel)
        for label, size in zip(own.labels, own.value.shape, strict=True)
    }
    shape = tuple(sizes[label] for label in result)
    again = functools.partial(contracted, builder, eqn, result=result)
    match params.made:
        case Entries() as made:
            return _layer(builder, eqn, x, kernel, result, shape, made, is_input)
        case Sum(terms):
            return _sum(builder, eqn, terms, lambda term: again(x, Labelled(term, kernel.labels)))
        case Joined(parts, axis) if kernel.labels[axis] in x.labels:
            label, begin, found = kernel.labels[axis], 0, []
            for part in parts:
                own = x.at([label])[0]
                end = begin + part.shape[axis]
                cut = _piece(value, own, begin, end)
                found.append(again(x._replace(value=cut), Labelled(part, kernel.labels),
                                   is_input=False))  # fmt: skip
                begin = end
            if label in result:
                return _row(found, result.index(label))
            return total(builder, eqn, found)
        case Joined(parts, axis):
            found = [again(x, Labelled(part, kernel.labels)) for part in parts]
            return _row(found, result.index(kernel.labels[axis]))
        case Product() as made:
            found_one = _one_after_the_other(builder, eqn, x, kernel, result, made)
            if found_one is not None:
                return found_one
    return not_read(builder, eqn, value, params, shape)


def _without_repeats(x: Labelled, kernel: Labelled, result: Sequence[str]) -> Labelled:
    """Return a kernel without the batches, of the activation, for which it is repeated."""
    value = kernel.value
    assert isinstance(value, FromParams)
    gone = [
        axis
        for axis, label in enumerate(kernel.labels)
        if label in x.labels and label in result and repeats(value, axis)
    ]
    if not gone:
        return kernel
    shape = tuple(size for axis, size in enumerate(value.shape) if axis not in gone)
    labels = tuple(label for axis, label in enumerate(kernel.labels) if axis not in gone)
    return Labelled(moved(value, (first(value.shape, gone), Reshape(shape)), shape), labels)


def not_read(
    builder: GraphBuilder, eqn: JaxprEqn, value: Traced, kernel: FromParams,
    shape: tuple[int, ...], why: str = NOT_READ,
) -> Traced:  # fmt: skip
    """Lose all channels at a kernel that is made of parameters in another way.

    Of integers times a scale, the scale is none: it is listed as what it is.
    """
    made, line = kernel.made, builder.where(eqn)
    gain = made.gain if isinstance(made, Entries) else ()
    scales = frozenset(power.view.leaf for power in gain)
    names = [leaf.removesuffix("/kernel") for leaf in sorted(kernel.leaves - scales)]
    builder.report(Break("", eqn.primitive.name, line, why), names, names)
    builder.leave(scales, _SCALES, line, False)
    builder.leave(kernel.leaves - scales, why, line)
    others = FromParams(kernel.shape, None, others=kernel.leaves - scales)
    found = builder.barrier(eqn, [value, others], why)[0]
    return found._replace(shape=shape)


def _why_not(builder: GraphBuilder, view: View) -> str:
    """Return why a leaf, entry by entry, is no layer."""
    return NOT_READ if view.leaf in builder.kernels else "its kernel is no floating-point leaf"


def convolved(
    builder: GraphBuilder, eqn: JaxprEqn, value: Traced, kernel: FromParams, shape: tuple[int, ...]
) -> Traced:
    """Convolve an activation with a kernel, as `contracted` contracts."""
    params = eqn.params
    dims, groups = params["dimension_numbers"], params["feature_group_count"]
    (out, into), feature, made = dims.rhs_spec[:2], dims.lhs_spec[1], kernel.made
    again = functools.partial(convolved, builder, eqn)
    at = dims.out_spec[1]

    def wide(size: int) -> tuple[int, ...]:
        return tuple(size if axis == at else n for axis, n in enumerate(shape))

    match made:
        case Entries():
            x = Labelled(value, _named(dims.lhs_spec, ("batch", "in"), "of"))
            own = Labelled(kernel, _named(dims.rhs_spec, ("out", "in"), "window"))
            result = _named(dims.out_spec, ("batch", "out"), "at")
            return _convolution(builder, eqn, x, own, result, shape, made)
        case Sum(terms) if groups == 1:
            return _sum(builder, eqn, terms, lambda term: again(value, term, shape))
        case Joined(parts, axis) if groups == 1 and axis == out:
            return _row([again(value, part, wide(part.shape[out])) for part in parts], at)
        case Joined(parts, axis) if groups == 1 and axis == into:
            found, begin = [], 0
            for part in parts:
                end = begin + part.shape[into]
                found.append(again(_piece(value, feature, begin, end), part, shape))
                builder.unseen()
                begin = end
            return total(builder, eqn, found)
    return not_read(builder, eqn, value, kernel, shape)


def _named(spec: Sequence[int], first_two: tuple[str, str], others: str) -> tuple[str, ...]:
    """Return names of the axes that a convolution's dimension numbers list."""
    names = (*first_two, *(f"{others} {place}" for place in range(len(spec) - 2)))
    found = dict(zip(spec, names, strict=True))
    return tuple(found[axis] for axis in range(len(found)))


# ---------------------------------------------------------------- one layer


def _layer(
    builder: GraphBuilder, eqn: JaxprEqn, x: Labelled, kernel: Labelled, result: tuple[str, ...],
    shape: tuple[int, ...], made: Entries, is_input: bool,
) -> Traced:  # fmt: skip
    value, params, view = x.value, kernel.value, made.view
    assert isinstance(value, Traced)
    assert isinstance(params, FromParams)
    batch = [label for label in kernel.labels if label in x.labels and label in result]
    gone = [label for label in kernel.labels if label in x.labels and label not in result]
    free = [label for label in kernel.labels if label not in x.labels]
    roles = [[], kernel.at(gone), kernel.at(batch), kernel.at(free)]
    layer = None
    if view.leaf in builder.kernels:
        layer = layer_of(builder, view, roles)
    if layer is None:
        return not_read(builder, eqn, value, params, shape, _why_not(builder, view))
    before, after = _gains(builder, layer, eqn, made, kernel, gone, (*batch, *free))
    for power in before:
        spread = _spread(power, kernel, (*batch, *gone), x.labels, value.shape)
        value = scaled(builder, eqn, value, spread)
    axes, at = kernel.at((*batch, *gone)), x.at((*batch, *gone))
    rows = numbered(view, axes, at, value.shape, kernel.at(batch))
    enter(builder, value, rows, layer)
    ends = (*batch, *free)
    at = [result.index(label) for label in ends]
    found = output(layer, numbered(view, kernel.at(ends), at, shape, kernel.at(batch)))
    if not is_input:
        builder.unseen()
    for power in after:
        found = scaled(builder, eqn, found, _spread(power, kernel, ends, result, shape))
    return found


def _convolution(
    builder: GraphBuilder, eqn: JaxprEqn, x: Labelled, kernel: Labelled, result: tuple[str, ...],
    shape: tuple[int, ...], made: Entries,
) -> Traced:  # fmt: skip
    params, value, view = eqn.params, x.value, made.view
    assert isinstance(value, Traced)
    assert isinstance(kernel.value, FromParams)
    dims, groups = params["dimension_numbers"], params["feature_group_count"]
    (out, into, *window), strides = dims.rhs_spec, max(params["window_strides"], default=1)
    # A window that is read from its end is the same window: norms know of no direction in it.
    unturned = views.unturned(view, window)
    layer = None
    if view.leaf in builder.kernels and params["batch_group_count"] == 1:
        layer = layer_of(builder, unturned, [window, (into,), (), (out,)], strides, groups)
    if layer is None:
        why = _why_not(builder, view)
        return not_read(builder, eqn, value, kernel.value, shape, why)
    uneven = max(params["rhs_dilation"], default=1) > 1 or len(set(params["window_strides"])) > 1
    if uneven or unturned != view:
        builder.layers[layer] = replace(builder.layers[layer], strides=0)
    before, after = _gains(builder, layer, eqn, made, kernel, ["in"] * (groups == 1), ["out"])
    for power in before:
        value = scaled(builder, eqn, value, _spread(power, kernel, ["in"], x.labels, value.shape))
    feature, at = dims.lhs_spec[1], dims.out_spec[1]
    enter(builder, value, channels.numbered(value.shape, [feature], [value.shape[feature]]), layer)
    found = output(layer, channels.numbered(shape, [at], [shape[at]]))
    for power in after:
        found = scaled(builder, eqn, found, _spread(power, kernel, ["out"], result, shape))
    return found


def _gains(
    builder: GraphBuilder, layer: str, eqn: JaxprEqn, made: Entries, kernel: Labelled,
    inputs: Sequence[str], outputs: Sequence[str],
) -> tuple[list[Power], list[Power]]:  # fmt: skip
    """Return what scales a kernel's inputs, and its outputs; note what scales it otherwise."""
    before, after, exact = [], [], made.exact
    leaves = [power.view.leaf for power in made.gain]
    builder.leave(leaves, _SCALES, builder.where(eqn), False)
    for power in made.gain:
        pairs = zip(kernel.labels, power.view.shape, power.view.strides, strict=True)
        along = {label for label, size, by in pairs if by and size > 1}
        if along <= set(outputs):
            after.append(power)
        elif along <= set(inputs):
            before.append(power)
        else:
            exact = False
    if not exact:
        builder.note(layer, builder.where(eqn))
    return before, after


def _spread(
    power: Power, kernel: Labelled, labels: Sequence[str], result: Sequence[str],
    shape: tuple[int, ...],
) -> FromParams:  # fmt: skip
    """Return a gain of a kernel, along axes of these names, in the shape of an activation."""
    assert isinstance(kernel.value, FromParams)
    old, order = kernel.value.shape, kernel.at(labels)
    gone = [axis for axis in range(len(old)) if axis not in order]
    movement: Movement = (
        first(old, gone),
        Transpose((*order, *gone)),
        Reshape(tuple(old[axis] for axis in order)),
        Broadcast(shape, tuple(result.index(label) for label in labels)),
    )
    found = moved(FromParams(old, (power,)), movement, shape)
    assert isinstance(found, FromParams)
    return found


# ---------------------------------------------------------------- several layers


def _sum(
    builder: GraphBuilder, eqn: JaxprEqn, terms: Sequence[FromParams],
    one: Callable[[FromParams], Traced],
) -> Traced:  # fmt: skip
    found = []
    for term in terms:
        value = one(term)
        sources = tuple(
            source._replace(scale=source.scale * abs(term.scale)) for source in value.sources
        )
        found.append(value._replace(sources=sources))
    return total(builder, eqn, found)


def _one_after_the_other(
    builder: GraphBuilder, eqn: JaxprEqn, x: Labelled, kernel: Labelled, result: tuple[str, ...],
    made: Product,
) -> Traced | None:  # fmt: skip
    """Contract with the side that holds all that is contracted, then with the other."""
    names = [
        tuple(
            kernel.labels[made.free.index((place, axis))]
            if (place, axis) in made.free
            else f"between {axis - len(side.shape)} of {'|'.join(kernel.labels)}"
            for axis in range(len(side.shape))
        )
        for place, side in enumerate(made.sides)
    ]
    gone = {label for label in x.labels if label in kernel.labels and label not in result}
    place = next((place for place in (0, 1) if gone <= set(names[place])), None)
    if place is None or not gone:
        return None
    one, two = (Labelled(made.sides[at], names[at]) for at in (place, 1 - place))
    between = (
        *(label for label in x.labels if label not in gone),
        *(label for label in one.labels if label not in x.labels),
    )
    found = contracted(builder, eqn, x, one, between)
    return contracted(builder, eqn, Labelled(found, between), two, result, is_input=False)


def _piece(value: Traced, axis: int, begin: int, end: int) -> Traced:
    shape = tuple(end - begin if i == axis else size for i, size in enumerate(value.shape))
    found = moved(value, piece(value.shape, axis, begin, end), shape)
    assert isinstance(found, Traced)
    return found


def _row(parts: Sequence[Traced], axis: int) -> Traced:
    found = joined(parts, axis)
    assert isinstance(found, Traced)
    return found

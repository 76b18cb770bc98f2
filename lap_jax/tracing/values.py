"""What is known of a value in a model: where its channels come from, or which parameters it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from lap_jax.tracing import channels, views
from lap_jax.tracing.channels import CHANNELS
from lap_jax.tracing.movements import (
    Broadcast,
    Cut,
    Movement,
    Reshape,
    Step,
    Take,
    Transpose,
    array_moves,
    common_groups,
    move,
    step_shape,
)
from lap_jax.tracing.views import VIEWS, View


class Power(NamedTuple):
    """``|leaf + shift| ** power``, entry by entry."""

    view: View
    power: float = 1.0
    shift: float = 0.0


class Entries(NamedTuple):
    """A leaf entry by entry: each is made of the leaf's own, and of what the leaf is as a whole.

    Attributes:
      view: of the leaf.
      gain: other parameters that multiply it.
      exact: whether all that scales it is in the gain, but for a constant.
    """

    view: View
    gain: tuple[Power, ...] = ()
    exact: bool = True


class Joined(NamedTuple):
    """Values side by side along an axis."""

    parts: tuple[FromParams, ...]
    axis: int


class Sum(NamedTuple):
    """The sum of values of one shape."""

    terms: tuple[FromParams, ...]


class Product(NamedTuple):
    """Two values, contracted with each other.

    Attributes:
      sides: the values; what is contracted are the last axes of both.
      gone: how many these are.
      free: for each axis of the result, its side, and the axis there.
    """

    sides: tuple[FromParams, FromParams]
    gone: int
    free: tuple[tuple[int, int], ...]


Made: TypeAlias = Entries | Joined | Sum | Product
"""How a value is made of leaves that can be kernels."""


class FromParams(NamedTuple):
    """A value that does not depend on the network's input.

    Attributes:
      shape: of the value.
      powers: it is their product times ``scale``; None where it is no such product.
      scale: a number.
      compute: gives the value of a constant, which no parameter is part of.
      others: paths of the parameters, where ``powers`` do not tell them.
      how: how it is made of leaves, where ``powers`` do not tell that; None if in no known way.
    """

    shape: tuple[int, ...]
    powers: tuple[Power, ...] | None = ()
    scale: float = 1.0
    compute: Callable[[], Any] | None = None
    others: frozenset[str] = frozenset()
    how: Made | None = None

    @property
    def kernel(self) -> View | None:
        """The view of a leaf that this is, up to a constant; None if it is something else."""
        if self.powers and len(self.powers) == 1 and self.powers[0][1:] == (1.0, 0.0):
            return self.powers[0].view
        return None

    @property
    def made(self) -> Made | None:
        """How it is made of leaves that can be kernels; None if in no known way.

        Of a product of powers, it is the one that changes along the most axes, entry by entry.
        """
        if not self.powers:
            return self.how
        sizes = [views.size(power.view) for power in self.powers]
        most = {
            power.view for size, power in zip(sizes, self.powers, strict=True) if size == max(sizes)
        }
        gain = (power for size, power in zip(sizes, self.powers, strict=True) if size < max(sizes))
        return Entries(most.pop(), tuple(gain)) if len(most) == 1 else None

    @property
    def is_constant(self) -> bool:
        """Whether no parameter is part of it."""
        return self.powers == ()

    @property
    def leaves(self) -> frozenset[str]:
        """Paths of the parameters that it depends on."""
        return self.others | {power.view.leaf for power in self.powers or ()}


class Source(NamedTuple):
    """What one layer or junction brings to an activation.

    Attributes:
      node: its name.
      ids: which of its channels each element holds, int32; `NONE` where it holds none.
      scale: a constant that multiplies it.
      linear: whether it came through linear operations alone.
      pool: by how much strides have thinned its positions out.
    """

    node: str
    ids: np.ndarray
    scale: float = 1.0
    linear: bool = True
    pool: int = 1

    def carries_the_same(self, other: Source) -> bool:
        """Return whether both bring the same channels to the same elements."""
        return self.node == other.node and (
            self.ids is other.ids
            or np.array_equal(channels.small(self.ids), channels.small(other.ids))
        )


class Break(NamedTuple):
    """Channels that an operation mixed in a way that says nothing of a single one.

    Attributes:
      node, primitive, where, why: whose they are, and what mixed them, in which line and how.
      sum: names the equation, if it is a sum that can be followed: a mean over positions once these
        have channels of their own. Told from a statistic, which what it is of meets again, by where
        it goes, so that it is followed when the program is read anew.
    """

    node: str
    primitive: str
    where: str
    why: str
    sum: Hashable = None


class Traced(NamedTuple):
    """A value that depends on the network's input.

    Attributes:
      shape: of the value.
      sources: where its elements come from; where two overlap, it is their sum.
      gain: powers of parameters that multiply a value without sources.
      unit: whether it brings something that has no layer, such as the network's input.
      breaks: what it depends on, but not channel by channel.
      heads: of weights of positions, which channel of queries and keys stands for the head.
      kernels: what it is one of, where data choose one of several kernels.
      asked: of what such weights have multiplied, the head that they are of.
    """

    shape: tuple[int, ...]
    sources: tuple[Source, ...] = ()
    gain: tuple[Power, ...] = ()
    unit: bool = False
    breaks: frozenset[Break] = frozenset()
    heads: tuple[Source, ...] = ()
    kernels: tuple[FromParams, ...] = ()
    asked: tuple[Source, ...] = ()

    def is_constant(self, axes: Sequence[int]) -> bool:
        """Return whether nothing that is known of it changes along axes."""
        return not self.gain and all(channels.constant(part.ids, axes) for part in self.sources)

    def bent(self) -> Traced:
        """Return it behind a function that is not linear, without parameters that multiply it."""
        sources = tuple(source._replace(linear=False) for source in self.sources)
        return self._replace(sources=sources, gain=())


Value: TypeAlias = FromParams | Traced


def traced(values: Iterable[Value]) -> list[Traced]:
    """Return those of the values that depend on the network's input."""
    return [value for value in values if isinstance(value, Traced)]


def breaks_of(values: Iterable[Value]) -> frozenset[Break]:
    """Return what several values depend on, but not channel by channel."""
    return frozenset().union(*(value.breaks for value in traced(values)))


def opaque(values: Iterable[Value], shape: Sequence[int]) -> FromParams:
    """Return a value that is some function of parameters, and no product of their powers."""
    found = [value.leaves for value in values if isinstance(value, FromParams)]
    return FromParams(tuple(shape), None, others=frozenset().union(*found))


def moved(value: Value, movement: Movement, shape: Sequence[int]) -> Value:
    """Apply a movement of data to a value, which is of ``shape`` then.

    Channel numbers follow all movements. Views of parameters do not: what cannot be told as strides
    is no product of powers any more.
    """
    shape = tuple(shape)
    if isinstance(value, Traced):
        sources, heads, asked = (
            [part._replace(ids=move(CHANNELS, part.ids, movement)) for part in parts]
            for parts in (value.sources, value.heads, value.asked)
        )
        return value._replace(
            shape=shape, gain=_moved_powers(value.gain, movement),
            sources=tuple(source for source in sources if channels.holds_any(source.ids)),
            heads=tuple(heads), asked=tuple(asked),
            kernels=tuple(_part(kernel, movement, shape) for kernel in value.kernels),
        )  # fmt: skip
    if value.powers is None:
        how = _moved_made(value, movement)
        return FromParams(shape, None, value.scale, others=value.leaves, how=how)
    if value.is_constant:
        compute = value.compute
        if compute is None:
            return value._replace(shape=shape)
        return value._replace(shape=shape, compute=lambda: move(
            array_moves(np), np.asarray(compute()), movement))  # fmt: skip
    powers = _moved_powers(value.powers, movement)
    if len(powers) < len(value.powers):
        return opaque([value], shape)
    return FromParams(shape, powers, value.scale)


def _moved_made(value: FromParams, movement: Movement) -> Made | None:
    """Return how a value is made once it has moved; None if that is not told."""
    made, shape = value.how, value.shape
    for step in movement:
        if made is None:
            break
        after = step_shape(shape, step)
        match made:
            case Entries():
                view = move(VIEWS, made.view, (step,))
                gain = _moved_powers(made.gain, (step,))
                exact = made.exact and len(gain) == len(made.gain)
                made = None if view is None else Entries(view, gain, exact)
            case Sum():
                made = Sum(tuple(_part(term, (step,), after) for term in made.terms))
            case Joined():
                made = _moved_joined(made, shape, step)
            case Product():
                made = _moved_product(made, shape, step)
        shape = after
    return made


def _part(value: FromParams, movement: Movement, shape: Sequence[int]) -> FromParams:
    found = moved(value, movement, shape)
    assert isinstance(found, FromParams)
    return found


def _moved_joined(made: Joined, shape: Sequence[int], step: Step) -> Made | None:
    """Return how values side by side are made once they have moved as one."""
    axis, after = made.axis, step_shape(shape, step)
    sizes = [part.shape[axis] for part in made.parts]
    match step:
        case Transpose():
            at = step.order.index(axis)
        case Broadcast():
            at = step.axes[axis]
        case Reshape():
            old, new = next(group for group in common_groups(shape, after) if axis in group[0])
            at = next((i for i in new if after[i] > 1), -1)
            inner = math.prod(shape[i] for i in old if i > axis)
            each = math.prod(after[i] for i in new if i > at)
            sizes = [size * inner for size in sizes]
            if at < 0 or any(shape[i] > 1 for i in old if i < axis) or any(s % each for s in sizes):
                return None
            sizes = [size // each for size in sizes]
        case Cut() if step.start[axis] or step.stop[axis] != shape[axis] or step.step[axis] != 1:
            return _cut_joined(made, step)
        case Take() if step.axis == axis:
            return None
        case _:
            at = axis
    parts = []
    for part, size in zip(made.parts, sizes, strict=True):
        own = tuple(size if i == at else n for i, n in enumerate(after))
        match step:
            case Broadcast():
                parts.append(_part(part, (step._replace(shape=own),), own))
            case Reshape():
                parts.append(_part(part, (Reshape(own),), own))
            case Cut():
                stop = tuple(part.shape[i] if i == axis else n for i, n in enumerate(step.stop))
                parts.append(_part(part, (step._replace(stop=stop),), own))
            case _:
                parts.append(_part(part, (step,), own))
    return Joined(tuple(parts), at)


def _cut_joined(made: Joined, step: Cut) -> Made | None:
    """Cut values side by side along the axis of these."""
    axis, begin, found = made.axis, 0, []
    if step.step[axis] != 1:
        return None
    for part in made.parts:
        size = part.shape[axis]
        start, stop = (min(max(at[axis] - begin, 0), size) for at in (step.start, step.stop))
        begin += size
        if start < stop:
            starts, stops = list(step.start), list(step.stop)
            starts[axis], stops[axis] = start, stop
            own = Cut(tuple(starts), tuple(stops), step.step)
            found.append(_part(part, (own,), step_shape(part.shape, own)))
    return found[0].made if len(found) == 1 else Joined(tuple(found), axis)


def _moved_product(made: Product, shape: Sequence[int], step: Step) -> Product | None:
    """Return how a product is made once it has moved; the sides do that in its place."""
    if isinstance(step, Transpose):
        return made._replace(free=tuple(made.free[axis] for axis in step.order))
    # Free axes in the order of the result: then what becomes of them is the step's own.
    ordered = []
    for place, side in enumerate(made.sides):
        own = [axis for where, axis in made.free if where == place]
        order = Transpose((*own, *range(len(own), len(side.shape))))
        ordered.append(_part(side, (order,), step_shape(side.shape, order)))
    belongs = [where for where, _ in made.free]
    sizes: list[list[int]] = [[], []]
    steps: list[list[int]] = [[], []]
    free: list[tuple[int, int]] = []
    moves: list[Step] = []
    match step:
        case Reshape():
            for old, new in common_groups(shape, step.shape):
                owners = {belongs[axis] for axis in old if shape[axis] > 1} or {0}
                if len(owners) > 1:
                    return None
                (owner,) = owners
                for axis in new:
                    free.append((owner, len(sizes[owner])))
                    sizes[owner].append(step.shape[axis])
            moves += [
                Reshape((*own, *side.shape[len(side.shape) - made.gone :]))
                for own, side in zip(sizes, ordered, strict=True)
            ]
        case Cut():
            for axis, where in enumerate(belongs):
                free.append((where, len(steps[where])))
                steps[where].append(axis)
            for own, side in zip(steps, ordered, strict=True):
                gone = side.shape[len(side.shape) - made.gone :]
                moves.append(
                    Cut(
                        (*(step.start[axis] for axis in own), *(0 for _ in gone)),
                        (*(step.stop[axis] for axis in own), *gone),
                        (*(step.step[axis] for axis in own), *(1 for _ in gone)),
                    )
                )
        case _:
            return None
    one, two = (
        _part(side, (own,), step_shape(side.shape, own))
        for side, own in zip(ordered, moves, strict=True)
    )
    return Product((one, two), made.gone, tuple(free))


def _moved_powers(powers: Sequence[Power], movement: Movement) -> tuple[Power, ...]:
    """Return those of the powers that can be moved, moved."""
    views = [move(VIEWS, power.view, movement) for power in powers]
    return tuple(p._replace(view=view) for p, view in zip(powers, views, strict=True) if view)


def fit(value: Value, shape: tuple[int, ...]) -> Value:
    """Return the value in the shape of a result: scalars and axes of size one are broadcast."""
    if value.shape == shape:
        return value
    if isinstance(value, FromParams) and value.is_constant:
        return value._replace(shape=shape)  # its size is the same without being written out
    return moved(value, (Broadcast(shape, tuple(range(len(value.shape)))),), shape)


def joined(values: Sequence[Value], axis: int) -> Value:
    """Concatenate values along an axis."""
    shape = list(values[0].shape)
    shape[axis] = sum(value.shape[axis] for value in values)
    if not traced(values):
        made = [value for value in values if isinstance(value, FromParams) and value.made]
        how = Joined(tuple(made), axis) if len(made) == len(values) else None
        return opaque(values, shape)._replace(how=how)
    kinds: dict[tuple[Any, ...], None] = {}
    for activation in traced(values):
        kinds |= dict.fromkeys(_kind(source) for source in activation.sources)
    sources = []
    for kind in kinds:
        parts = []
        for value in values:
            own = value.sources if isinstance(value, Traced) else ()
            ids = (source.ids for source in own if _kind(source) == kind)
            parts.append(next(ids, None))
        full = [
            channels.nothing(value.shape) if ids is None else ids
            for ids, value in zip(parts, values, strict=True)
        ]
        node, scale, linear, pool = kind
        sources.append(Source(node, CHANNELS.concatenate(full, axis), scale, linear, pool))
    unit = any(value.unit for value in traced(values)) and not sources
    return Traced(tuple(shape), tuple(sources), (), unit, breaks_of(values))


def _kind(source: Source) -> tuple[Any, ...]:
    """Return all of a source but its channels: what parts of one have in common."""
    return source.node, source.scale, source.linear, source.pool


def stacked(values: Sequence[Value], axis: int = 0) -> Value:
    """Put values along a new axis."""
    old = values[0].shape
    shape = (*old[:axis], 1, *old[axis:])
    return joined([moved(value, (Reshape(shape),), shape) for value in values], axis)

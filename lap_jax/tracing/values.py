"""What is known of a value in a model: where its channels come from, or which parameters it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from lap_jax.tracing import channels
from lap_jax.tracing.channels import CHANNELS
from lap_jax.tracing.movements import Broadcast, Movement, Reshape, array_moves, move
from lap_jax.tracing.views import VIEWS, View


class Power(NamedTuple):
    """``|leaf + shift| ** power``, entry by entry."""

    view: View
    power: float = 1.0
    shift: float = 0.0


class FromParams(NamedTuple):
    """A value that does not depend on the network's input.

    Attributes:
      shape: of the value.
      powers: it is their product times ``scale``; None where it is no such product.
      scale: a number.
      compute: gives the value of a constant, which no parameter is part of.
      others: paths of the parameters, where ``powers`` do not tell them.
    """

    shape: tuple[int, ...]
    powers: tuple[Power, ...] | None = ()
    scale: float = 1.0
    compute: Callable[[], Any] | None = None
    others: frozenset[str] = frozenset()

    @property
    def kernel(self) -> View | None:
        """The view of a leaf that this is, up to a constant; None if it is something else."""
        if self.powers and len(self.powers) == 1 and self.powers[0][1:] == (1.0, 0.0):
            return self.powers[0].view
        return None

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
    """Channels that an operation mixed in a way that says nothing of a single one."""

    node: str
    primitive: str
    where: str
    why: str


class Traced(NamedTuple):
    """A value that depends on the network's input.

    Attributes:
      shape: of the value.
      sources: where its elements come from; where two overlap, it is their sum.
      gain: powers of parameters that multiply a value without sources.
      unit: whether it brings something that has no layer, such as the network's input.
      breaks: what it depends on, but not channel by channel.
    """

    shape: tuple[int, ...]
    sources: tuple[Source, ...] = ()
    gain: tuple[Power, ...] = ()
    unit: bool = False
    breaks: frozenset[Break] = frozenset()

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
        sources = [
            source._replace(ids=move(CHANNELS, source.ids, movement)) for source in value.sources
        ]
        return value._replace(
            shape=shape,
            sources=tuple(source for source in sources if channels.holds_any(source.ids)),
            gain=_moved_powers(value.gain, movement),
        )
    if value.powers is None:
        return value._replace(shape=shape)
    if value.is_constant:
        compute = value.compute
        if compute is None:
            return value._replace(shape=shape)
        return value._replace(
            shape=shape, compute=lambda: move(array_moves(np), np.asarray(compute()), movement)
        )
    powers = _moved_powers(value.powers, movement)
    if len(powers) < len(value.powers):
        return opaque([value], shape)
    return FromParams(shape, powers, value.scale)


def _moved_powers(powers: Sequence[Power], movement: Movement) -> tuple[Power, ...]:
    """Return those of the powers that can be moved, moved."""
    views = [move(VIEWS, power.view, movement) for power in powers]
    pairs = zip(powers, views, strict=True)
    return tuple(power._replace(view=view) for power, view in pairs if view is not None)


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
        return opaque(values, shape)
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


def stacked(values: Sequence[Value]) -> Value:
    """Put values along a new first axis."""
    shape = (1, *values[0].shape)
    return joined([moved(value, (Reshape(shape),), shape) for value in values], 0)

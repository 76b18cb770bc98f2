"""Which neurons lie on a path of kept weights, from the network's input to its output.

A kept weight is *effective* if its input neuron is reached, over kept weights, from the network's
input, and its output neuron leads on to the network's output (Vysogorets & Kempe 2023): what leads
into a neuron that nobody reads, or out of one that nothing reaches, is kept and does nothing.
Biases and shifts of norms reach no neuron: a constant carries nothing of the input.

    reached[k] = any over j of mask[j, k] and reached[j]
    read[j]    = any over k of mask[j, k] and read[k]

with a convolution's channel as a neuron. A sum is reached if any branch is, a product if all are; a
branch of a product is read where the others are reached. An identity branch is reached and read.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.batching import turned
from lap_jax.graph.layers import IDENTITY, Edge, Junction, Layer
from lap_jax.graph.structure import Structure
from lap_jax.scoring.kernels import Layout
from lap_jax.scoring.scores import Sides, along_inputs, along_kernel

Truth = Any
"""``[channels]`` of truth values, of NumPy or of JAX: what `Lead` gives decides where work goes on.
A network has a hundred such vectors, and a program for each takes longer than all of their bits."""

Lead = Callable[[str, Truth, bool], Truth]
"""``(layer, [in] or [out], forward) -> [out] or [in]``: what weights that are kept lead to."""

Channels = dict[str, Truth]
"""By layer or junction, a truth value per channel."""


class Alive(NamedTuple):
    """What is reached, by layer or junction, of its inputs, and what of its outputs is read."""

    reached: Channels
    read: Channels


def alive(graph: Structure, lead: Lead, traced: bool) -> Alive:
    """Return which channels are reached and read.

    Where layers feed themselves, by the shortest paths there are: what only reaches itself is dead.

    Args:
      graph: who feeds whom.
      lead: through the kept weights of a layer.
      traced: whether `lead` is part of a program.
    """
    order, loops = _in_order(graph)

    def reach(known: Channels) -> Channels:
        known = dict(known)
        led: Channels = {}
        for name in order:
            known[name] = _reached(graph, name, known, led, lead)
        return known

    reached = _settled(reach, graph, "in_size", loops, traced)
    outputs: Channels = {}

    def ask(known: Channels) -> Channels:
        known = dict(known)
        led: Channels = {}
        for name in reversed(order):
            known[name] = _read(graph, name, known, led, reached, outputs, lead)
        return known

    return Alive(reached, _settled(ask, graph, "out_size", loops, traced))


def effective(layout: Layout, mask: Truth, reached: Truth, read: Truth) -> Truth:
    """Return which kept weights of a kernel are effective.

    Args:
      layout: of the kernel.
      mask: which weights are kept, of its shape.
      reached, read: of the layer's inputs ``[in]`` and outputs ``[out]``.
    """
    sides: Any = along_kernel(layout, Sides(reached, read))
    return mask & sides.input & sides.output


def count(mask: jax.Array) -> jax.Array:
    """Return how many entries of a boolean kernel are true, as uint32."""
    if mask.ndim < 2:
        return jnp.sum(mask, dtype=jnp.uint32)
    return jnp.sum(over_window(operator.add, mask.astype(jnp.uint32)), dtype=jnp.uint32)


def over_window(combine: Callable[[Any, Any], Any], kernel: jax.Array) -> jax.Array:
    """Return what a kernel has at each pair of neurons, ``[in / groups, out]``.

    Written out position by position: XLA on CPUs reduces booleans six times slower.
    """
    return reduce(combine, kernel.reshape(-1, *kernel.shape[-2:]))


def best_of_neurons(layout: Layout, scores: jax.Array) -> jax.Array:
    """Return where the largest score into each output neuron is, and that out of each input neuron.

    Args:
      layout: of the kernel.
      scores: of its shape; equal ones share the place.
    """
    grouped = scores.reshape(-1, scores.shape[-2], layout.groups, scores.shape[-1] // layout.groups)
    out_of = grouped == grouped.max((0, 3), keepdims=True)
    out_of &= grouped >= 0
    into = grouped == grouped.max((0, 1), keepdims=True)
    return (out_of | into & ~out_of.any((0, 1), keepdims=True)).reshape(scores.shape)


def lead_through(layout: Layout, mask: Truth, channels: Truth, forward: bool) -> Truth:
    """Return the outputs that inputs lead to over kept weights, or the inputs that lead to outputs.

    Args:
      layout: of the kernel.
      mask: which weights are kept, of its shape; of NumPy if ``channels`` are.
      channels: of the inputs ``[in]``, or not ``forward``, of the outputs ``[out]``.
      forward: which way.
    """
    side = along_inputs(layout, channels) if forward else channels
    held: Any = over_window(operator.or_, mask) & side  # [in / groups, out]
    if forward:
        return held.any(0)
    grouped = held.reshape(held.shape[0], layout.groups, -1)
    return grouped.any(-1).T.reshape(-1)


def _reached(graph: Structure, name: str, known: Channels, led: Channels, lead: Lead) -> Truth:
    part, edges = graph.parts[name], graph.into(name)
    rows = [_brought(graph, edge, part.in_size, known, led, lead) for edge in edges]
    every = isinstance(part, Junction) and part.kind == "product"
    return _met(operator.and_ if every else operator.or_, rows, part.in_size)


def _met(combine: Callable[[Truth, Truth], Truth], rows: Sequence[Truth], size: int) -> Truth:
    """Return what several say of the same channels; where nobody says anything, all count."""
    return reduce(combine, rows) if rows else np.ones(size, bool)


def _brought(
    graph: Structure, edge: Edge, size: int, known: Channels, led: Channels, lead: Lead
) -> Truth:
    """Return which inputs of its target an edge reaches."""
    if edge.source == IDENTITY:
        return np.ones(size, bool)
    if edge.source not in led:
        values = known[edge.source]
        layer = isinstance(graph.parts[edge.source], Layer)
        led[edge.source] = lead(edge.source, values, True) if layer else values
    return edge.to_target(led[edge.source], size).any(0)


def _read(
    graph: Structure, name: str, known: Channels, led: Channels, reached: Channels,
    outputs: Channels, lead: Lead,
) -> Truth:  # fmt: skip
    part, edges = graph.parts[name], graph.out_of(name)
    rows = []
    for edge in edges:
        if edge.target == IDENTITY:
            rows.append(np.ones(part.out_size, bool))
            continue
        asked = _asked(graph, edge, known, led, reached, outputs, lead)
        rows.append(edge.to_source(asked, part.out_size).any(0))
    return _met(operator.or_, rows, part.out_size)


def _asked(
    graph: Structure, edge: Edge, known: Channels, led: Channels, reached: Channels,
    outputs: Channels, lead: Lead,
) -> Truth:  # fmt: skip
    """Return which of its inputs the target of an edge reads."""
    target = graph.parts[edge.target]
    if isinstance(target, Layer):
        if target.name not in led:
            led[target.name] = lead(target.name, known[target.name], False)
        return led[target.name]
    found = known[target.name]
    if target.kind == "product":
        for other in graph.into(target.name):
            if other != edge:
                found = found & _brought(graph, other, target.size, reached, outputs, lead)
    return found


def _settled(
    work: Callable[[Channels], Channels], graph: Structure, side: str, loops: bool, traced: bool
) -> Channels:
    """Return what does not change any more, from nothing on; at once where there is no loop."""
    nothing = {name: np.zeros(getattr(part, side), bool) for name, part in graph.parts.items()}
    found = work(nothing)
    if not loops:
        return found

    def changes(state: tuple[Channels, Channels]) -> jax.Array:
        before, now = state
        return jnp.stack([jnp.any(before[name] != now[name]) for name in now]).any()

    return turned(changes, lambda state: (state[1], work(state[1])), (nothing, found), traced)[1]


def _in_order(graph: Structure) -> tuple[list[str], bool]:
    """Return layers and junctions, each behind all that leads there, and whether some loop."""
    order: dict[str, None] = {}
    open_: set[str] = set()
    loops = False
    for first in graph.parts:
        stack = [] if first in order else [first]
        while stack:
            name = stack[-1]
            open_.add(name)
            sources = dict.fromkeys(edge.source for edge in graph.into(name))
            waiting = [each for each in sources if each != IDENTITY and each not in order]
            ahead = [each for each in waiting if each not in open_]
            if ahead:
                stack.append(ahead[0])
                continue
            loops |= bool(waiting)  # these wait for this one
            order[name] = None
            open_.discard(stack.pop())
    return list(order), loops

"""A model run on data with the layers of its graph beside the arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.scoring.norms import add_up
from lap_jax.tracing import channels
from lap_jax.tracing.builder import GraphBuilder
from lap_jax.tracing.interpreter import Interpreter, Program, Run, evaluate, programs, read
from lap_jax.tracing.looping import goes_over_layers, step_of_value, unrolled
from lap_jax.tracing.movements import array_moves, move, step_of
from lap_jax.tracing.primitives import graph_interpreter
from lap_jax.tracing.values import Traced, Value, stacked

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

# Calls with derivatives of their own.
_CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
_ARRAYS = array_moves(jnp)

Reaches: TypeAlias = Callable[[str, jax.Array, np.ndarray, int], None]
"""Takes a layer's name, what reaches it, which input each element is, and how many there are."""
Gives: TypeAlias = Callable[[str, np.ndarray, jax.Array], jax.Array]
"""Takes a layer's name, which output each element is, and what it gives; what is to go on."""
Meets: TypeAlias = "Callable[[JaxprEqn, Sequence[Value]], None]"
"""Takes an equation that reads no layer, and what is known of its operands."""


class Pair(NamedTuple):
    """A value as channel numbers and as an array."""

    seen: Any
    array: jax.Array


def pair_interpreter(
    builder: GraphBuilder, reaches: Reaches, gives: Gives, meets: Meets | None = None
) -> Interpreter:
    """Return how to read a program as channel numbers and as arrays at once.

    Args:
      builder: of the graph.
      reaches: called with what reaches a layer, each time that one is read.
      gives: called with what a layer gives, bias and norm not among it, where no other layer has a
        part in that; gives what goes on in its place.
      meets: called with all other equations, those of branches and of loops over time left out.
    """
    graph = graph_interpreter(builder)

    def evaluated(eqn: JaxprEqn, values: Sequence[Pair], seen: Sequence[Value]) -> list[Pair]:
        arrays = evaluate(eqn, [value.array for value in values])
        return [Pair(*pair) for pair in zip(seen, arrays, strict=True)]

    def seen_in(values: Sequence[Pair]) -> list[Value]:
        return [value.seen for value in values]

    def seen_by(inner: Program) -> Run:
        return functools.partial(read, graph, inner)

    def literal(value: Any) -> Pair:
        return Pair(graph.literal(value), value)

    def equation(eqn: JaxprEqn, values: list[Pair]) -> Sequence[Pair]:
        builder.readings.clear()
        found = evaluated(eqn, values, graph.equation(eqn, seen_in(values)))
        if meets is not None and not builder.readings:
            meets(eqn, seen_in(values))
        for reading in builder.readings:
            if reading.rows is not None:
                (x,) = (value.array for value in values if isinstance(value.seen, Traced))
                reaches(reading.layer, x, reading.rows, builder.layers[reading.layer].in_size)
            sources = [source for source in found[0].seen.sources if source.node == reading.layer]
            if len(builder.readings) == len(sources) == len(found[0].seen.sources) == 1:
                given = gives(reading.layer, sources[0].ids, found[0].array)
                found[0] = found[0]._replace(array=given)
        return found

    def call(eqn: JaxprEqn, values: list[Pair], run: Run) -> Sequence[Pair]:
        if eqn.primitive.name not in _CUSTOM:
            return run(values)
        builder.readings.clear()
        seen = seen_by(programs(eqn)[0])(seen_in(values))
        return run(values) if builder.readings else evaluated(eqn, values, seen)

    def branches(eqn: JaxprEqn, values: list[Pair], runs: Sequence[Run]) -> Sequence[Pair]:
        seen = graph.branches(eqn, seen_in(values), [seen_by(each) for each in programs(eqn)])
        return evaluated(eqn, values, seen)

    def loop(eqn: JaxprEqn, values: list[Pair], run: Run) -> Sequence[Pair]:
        if goes_over_layers(eqn, seen_in(values)):
            return unrolled(eqn, values, run, _step_of_pair, _stacked_pairs)
        seen = graph.loop(eqn, seen_in(values), seen_by(programs(eqn)[0]))
        return evaluated(eqn, values, seen)

    def counted(eqn: JaxprEqn, values: list[Pair]) -> JaxprEqn:
        return graph.counted(eqn, seen_in(values))

    return Interpreter(literal, equation, call, branches, loop, builder.calls, counted)


def by_channel(values: jax.Array, ids: np.ndarray, size: int) -> jax.Array:
    """Return sums of values over the elements of each channel, ``[size]``."""
    thin = channels.small(ids)
    for axis in range(values.ndim):
        if thin.shape[axis] == 1 and values.shape[axis] > 1:
            values = jnp.expand_dims(add_up(values, axis), axis)
    return jnp.zeros(size, values.dtype).at[thin.ravel()].add(values.reshape(-1))


def _step_of_pair(value: Pair, step: int) -> Pair:
    movement = step_of(value.array.shape, step)
    return Pair(step_of_value(value.seen, step), move(_ARRAYS, value.array, movement))


def _stacked_pairs(parts: Sequence[Pair]) -> Pair:
    seen = stacked([part.seen for part in parts])
    return Pair(seen, jnp.stack([part.array for part in parts]))

"""Primitives that choose and repeat: branches and loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from lap_jax.tracing import channels
from lap_jax.tracing.arithmetic import either
from lap_jax.tracing.builder import GraphBuilder
from lap_jax.tracing.interpreter import Run, loop_of
from lap_jax.tracing.movements import Broadcast, step_of
from lap_jax.tracing.values import Break, FromParams, Traced, Value, moved, stacked

if TYPE_CHECKING:
    from jax.extend.core import Jaxpr, JaxprEqn

V = TypeVar("V")


def branch(
    builder: GraphBuilder, eqn: JaxprEqn, values: list[Value], runs: Sequence[Run]
) -> Sequence[Value]:
    """Read a `cond`: the branch that a constant says, or one or the other."""
    chosen, *arguments = values
    found = [run(arguments) for run in runs]
    if isinstance(chosen, FromParams) and chosen.compute is not None:
        return found[int(chosen.compute())]
    return [either(builder, eqn, outs) for outs in zip(*found, strict=True)]


def loop(builder: GraphBuilder, eqn: JaxprEqn, values: list[Value], run: Run) -> Sequence[Value]:
    """Read a `scan`: stacked layers one by one; over time, the carry is a barrier."""
    body, n_consts, n_carry = loop_of(eqn)
    consts, carry, over = parts_of(eqn, values)
    if goes_over_layers(eqn, values):
        return unrolled(eqn, values, run, step_of_value, stacked)
    why = "what a loop carries from one step to the next is not followed"
    lost = Break("", "scan", builder.where(eqn), why)
    first = [
        _carried(value, lost) if _changes(value, body, place, n_consts) else value
        for place, value in enumerate(carry)
    ]
    builder.lose(lost, carry)
    found = run([*consts, *first, *(_any_step(value) for value in over)])
    builder.lose(lost, found[:n_carry])
    length = eqn.params["length"]
    return [*found[:n_carry], *(_repeated(part, length) for part in found[n_carry:])]


def parts_of(eqn: JaxprEqn, values: Sequence[V]) -> tuple[list[V], list[V], list[V]]:
    """Return what a scan is given: constants, what it carries, and what it goes over."""
    _, n_consts, n_carry = loop_of(eqn)
    start = n_consts + n_carry
    return list(values[:n_consts]), list(values[n_consts:start]), list(values[start:])


def goes_over_layers(eqn: JaxprEqn, values: Sequence[Value]) -> bool:
    """Return whether a scan goes over parameters, or counts through those that it holds."""
    consts, carry, over = parts_of(eqn, values)
    if over:
        return any(isinstance(value, FromParams) and not value.is_constant for value in over)
    counts = any(
        isinstance(value, FromParams) and value.compute is not None and not value.shape
        for value in carry
    )
    length = eqn.params["length"]
    return counts and any(
        isinstance(value, FromParams) and len(value.shape) > 2 and value.shape[0] == length
        for value in consts
        if not (isinstance(value, FromParams) and value.is_constant)
    )


def unrolled(
    eqn: JaxprEqn, values: Sequence[V], run: Run, at: Callable[[V, int], V],
    stack: Callable[[Sequence[V]], V],
) -> list[V]:  # fmt: skip
    """Read a scan step by step.

    Args:
      eqn, values: the scan and what goes in.
      run: reads its body.
      at: gives one step's part of a value.
      stack: puts the results of all steps together.
    """
    consts, carry, over = parts_of(eqn, values)
    outs = []
    for step in range(eqn.params["length"])[:: -1 if eqn.params["reverse"] else 1]:
        found = run([*consts, *carry, *(at(value, step) for value in over)])
        carry, made = found[: len(carry)], found[len(carry) :]
        outs.append(made)
    if eqn.params["reverse"]:
        outs.reverse()
    return [*carry, *(stack(parts) for parts in zip(*outs, strict=True))]


def step_of_value(value: Value, step: int) -> Value:
    """Return one step's part of what a scan goes over."""
    return moved(value, step_of(value.shape, step), value.shape[1:])


def _changes(value: Value, body: Jaxpr, place: int, n_consts: int) -> bool:
    """Return whether a loop may give what it carries channels, or another value."""
    if isinstance(value, Traced):
        return True
    return bool(value.shape) and body.outvars[place] is not body.invars[n_consts + place]


def _carried(value: Value, lost: Break) -> Traced:
    """Return what a loop carries, at some step."""
    if isinstance(value, Traced):
        gain, breaks = value.gain, value.breaks | {lost}
        return Traced(value.shape, gain=gain, unit=True, breaks=breaks)
    return Traced(value.shape, unit=True, breaks=frozenset([lost]))


def _any_step(value: Value) -> Value:
    """Return the part of what a scan goes over, whichever step's it is."""
    if isinstance(value, FromParams):
        return FromParams(value.shape[1:], (), value.scale)
    over = [source for source in value.sources if not channels.constant(source.ids, [0])]
    lost = {Break(source.node, "scan", "", "a loop goes over the channels") for source in over}
    kept = tuple(source for source in value.sources if channels.constant(source.ids, [0]))
    unit, breaks = value.unit or bool(lost), value.breaks | lost
    found = Traced(value.shape, kept, unit=unit, breaks=breaks)
    return step_of_value(found, 0)


def _repeated(value: Value, length: int) -> Value:
    """Return what every step of a loop gives."""
    shape = (length, *value.shape)
    return moved(value, (Broadcast(shape, tuple(range(1, len(shape)))),), shape)

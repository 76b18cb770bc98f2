"""A model's program as one list of steps: calls opened, stacked layers one by one."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.shrinking.pieces import Pieces
from lap_jax.shrinking.steps import (
    Concatenate,
    Does,
    Fill,
    Leaf,
    Listing,
    Step,
    is_entrywise,
)
from lap_jax.tracing.interpreter import (
    Interpreter,
    Run,
    evaluate,
    out_shapes,
    programs,
    read,
    where,
)
from lap_jax.tracing.looping import parts_of, unrolled
from lap_jax.tracing.movements import (
    Cut,
    Movement,
    Reshape,
    Take,
    array_moves,
    move,
    step_shape,
)
from lap_jax.tracing.moving import MOVING

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr, JaxprEqn


def listed(program: ClosedJaxpr, leaves: int, inline: bool) -> Listing:
    """Return a program as a list of steps.

    Args:
      program: of the leaves of variables, then of inputs.
      leaves: how many leaves.
      inline: open calls with derivatives of their own, too.
    """
    listing = Listing([], [], [], {}, [], [], {}, {})
    depends: list[bool] = []  # on inputs; of each value
    counted: set[int] = set()  # leaves of which a loop that is read may take a part by its number

    def new(shape: Sequence[int], dtype: Any, on_inputs: bool) -> int:
        listing.shapes.append(tuple(shape))
        listing.dtypes.append(dtype)
        depends.append(on_inputs)
        return len(listing.shapes) - 1

    def literal(value: Any) -> int:
        array = value if is_key(value) else np.asarray(value)
        number = new(array.shape, array.dtype, False)
        listing.constants[number] = array
        return number

    def computed(arrays: Sequence[Any]) -> list[int]:
        return [literal(array) for array in arrays]

    def do(does: Does, ins: Sequence[int], shapes: Sequence[tuple[int, ...]], dtypes: Sequence[Any],
           line: str) -> list[int]:  # fmt: skip
        on_inputs = any(depends[number] for number in ins)
        outs = [new(shape, dtype, on_inputs) for shape, dtype in zip(shapes, dtypes, strict=True)]
        step = Step(does, tuple(ins), tuple(outs), line)
        listing.steps.append(step)
        pieces.made.update(dict.fromkeys(outs, step))
        return outs

    def moved(number: int, movement: Movement, line: str) -> int:
        if number in listing.constants:
            return literal(move(array_moves(np), listing.constants[number], movement))
        for step in movement:
            for each in _axis_by_axis(step, listing.shapes[number]):
                if number in counted and isinstance(each, Take) and each.axis == 0:
                    listing.stacks.setdefault(listing.leaves[number].number, 0)
                found = pieces.found(number, each)
                if found is None:
                    shape = step_shape(listing.shapes[number], each)
                    (found,) = do(each, [number], [shape], [listing.dtypes[number]], line)
                number = found
        return number

    def equation(eqn: JaxprEqn, values: list[int]) -> Sequence[int]:
        name, line = eqn.primitive.name, where(eqn)
        constant = [listing.constants.get(number) for number in values]
        dtypes = [var.aval.dtype for var in eqn.outvars]  # type: ignore[attr-defined]
        if all(value is not None for value in constant) and not eqn.effects:
            return computed(_constant(eqn, constant))
        if name == "pad" and constant[1] is not None:
            return [_padded(eqn, values[0], constant[1], dtypes[0], line)]
        if name in MOVING and name != "pad":
            computes = [
                None if value is None else functools.partial(np.asarray, value)
                for value in constant
            ]
            movements = MOVING[name](eqn, computes)
            if movements is not None:
                return [moved(values[0], movement, line) for movement in movements]
        if name == "concatenate":
            axis = eqn.params["dimension"]
            return do(Concatenate(axis), values, out_shapes(eqn), dtypes, line)
        if name == "stack":
            return [stack(values, eqn.params["axis"])]
        if name == "optimization_barrier":
            return values
        return do(eqn, values, out_shapes(eqn), dtypes, line)

    def _padded(eqn: JaxprEqn, number: int, fill: Any, dtype: Any, line: str) -> int:
        movements = MOVING["pad"](eqn, ())
        assert movements is not None
        for step in movements[0]:
            assert isinstance(step, Take)
            shape = step_shape(listing.shapes[number], step)
            (number,) = do(Fill(*step, fill), [number], [shape], [dtype], line)
        return number

    def call(eqn: JaxprEqn, values: list[int], run: Run) -> Sequence[int]:
        if eqn.primitive.name in ("custom_jvp_call", "custom_vjp_call") and not inline:
            entrywise = is_entrywise(programs(eqn)[0])
            if entrywise or eqn.primitive.name == "custom_vjp_call":
                return equation(eqn, values)
        return run(values)

    def branches(eqn: JaxprEqn, values: list[int], runs: Sequence[Run]) -> Sequence[int]:
        index = listing.constants.get(values[0])
        return equation(eqn, values) if index is None else runs[int(index)](values[1:])

    def at(number: int, step: int) -> int:
        shape, dtype = listing.shapes[number][1:], listing.dtypes[number]
        if number in listing.leaves and listing.leaves[number].step is None:
            leaf = Leaf(listing.leaves[number].number, step)
            found = [value for value, other in listing.leaves.items() if other == leaf]
            if not found:
                found = [new(shape, dtype, False)]
                listing.leaves[found[0]] = leaf
            return found[0]
        whole = listing.shapes[number]
        cut = Cut((step, *[0] * len(shape)), (step + 1, *shape), (1,) * len(whole))
        return moved(number, (cut, Reshape(shape)), "")

    def stack(numbers: Sequence[int], axis: int = 0) -> int:
        shape, dtype = list(listing.shapes[numbers[0]]), listing.dtypes[numbers[0]]
        shape.insert(axis, 1)
        parts = [moved(number, (Reshape(tuple(shape)),), "") for number in numbers]
        if all(part in listing.constants for part in parts):
            return literal(np.concatenate([listing.constants[part] for part in parts], axis))
        shape[axis] = len(parts)
        return do(Concatenate(axis), parts, [tuple(shape)], [dtype], "")[0]

    def loop(eqn: JaxprEqn, values: list[int], run: Run) -> Sequence[int]:
        consts, carry, over = parts_of(eqn, values)
        stacked = [number for number in over if not _constant_or(listing, depends, number)]
        counts = any(number in listing.constants for number in carry) and any(
            listing.shapes[number][:1] == (eqn.params["length"],)
            and len(listing.shapes[number]) > 1
            for number in consts
            if not _constant_or(listing, depends, number)
        )
        if not stacked and not counts:
            return equation(eqn, values)
        kernels = any(len(listing.shapes[number]) > 2 for number in stacked)
        if kernels or not any(depends[number] for number in over):  # over layers, not over time
            for number in stacked:
                for leaf, axis in pieces.origins(number, 0).items():
                    listing.stacks.setdefault(leaf, axis)
        before = set(counted)
        counted.update(
            number
            for number in consts
            if listing.shapes[number][:1] == (eqn.params["length"],)
            and len(listing.shapes[number]) > 1
            and listing.leaves.get(number, Leaf(0, 0)).step is None
        )
        found = unrolled(eqn, values, run, at, stack)
        counted.intersection_update(before)
        return found

    pieces = Pieces(listing, do, literal)
    values = []
    for place, var in enumerate(program.jaxpr.invars):
        number = new(var.aval.shape, var.aval.dtype, place >= leaves)
        values.append(number)
        if place < leaves:
            listing.leaves[number] = Leaf(place)
        else:
            listing.inputs.append(number)
    interpreter = Interpreter(literal, equation, call, branches, loop, [])
    with jax.ensure_compile_time_eval():
        listing.outputs.extend(read(interpreter, program, values))
    return listing


def _axis_by_axis(step: Any, shape: Sequence[int]) -> list[Any]:
    """Return a step as steps that change one axis each, where it chooses places."""
    if not isinstance(step, Cut):
        return [step]
    found = []
    for axis, (size, *part) in enumerate(zip(shape, *step, strict=True)):
        places = np.arange(*part)
        if len(places) != size or (places != np.arange(size)).any():
            found.append(Take(places, axis))
    return found


def _constant_or(listing: Listing, depends: Sequence[bool], number: int) -> bool:
    """Return whether a value is no parameter: a constant, or something of the inputs."""
    return number in listing.constants or depends[number]


def _constant(eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Compute an equation on constants; what is only repeated takes no memory."""
    if eqn.primitive.name == "broadcast_in_dim" and not is_key(values[0]):
        axes = eqn.params["broadcast_dimensions"]
        (shape,) = out_shapes(eqn)
        return [array_moves(np).broadcast(np.asarray(values[0]), shape, axes)]
    found = evaluate(eqn, [value if is_key(value) else jnp.asarray(value) for value in values])
    return [value if is_key(value) else np.asarray(value) for value in found]


def is_key(value: Any) -> bool:
    """Return whether a value is no array of numbers, such as a random key."""
    return hasattr(value, "dtype") and jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended)

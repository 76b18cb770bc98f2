"""Which channels reach which inputs, by perturbing them: an oracle that knows nothing of tracing.

Every equation that reads a kernel gives random numbers, whatever goes in, so that nothing passes a
layer, and a ReLU lets half of what is below zero pass: a dead one would hide what reaches it, and
of a statistic that wakes it in one probe alone all the other channels. Then one channel of one such
equation is changed, by other numbers along its other axes, and seen is which inputs of the other
equations change.

Three times: as it is; with what `exp` gives held fast, which stops what goes through a softmax;
and with sums, maxima and products of activations held as well, which stops the statistics of norms.
What only the second shows is taken for an average over positions where an input hears of a single
channel, and for a statistic where it hears of several: a norm, which counts as a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from experiments.benchmarks.models.program import Known, Visit, evaluate, walk
from experiments.benchmarks.models.readings import Reading, is_reading, numbers, reading

FREE, NO_SOFTMAX, NO_STATISTICS = 0, 1, 2
LEVELS = (FREE, NO_SOFTMAX, NO_STATISTICS)
CHUNK = 48
"""Probes that run at once."""
PROBES = 800
"""Channels that are perturbed, of all equations together, as far as `LEAST` allows."""
LEAST, MOST = 4, 16


class Reached(NamedTuple):
    """What perturbations have shown.

    Attributes:
      readings: the equations that read kernels.
      channels: by equation, which of its outputs were perturbed.
      changed: by level, then by pair of equations, where anything changed: ``[channels, inputs]``.
    """

    readings: list[Reading]
    channels: list[np.ndarray]
    changed: dict[int, dict[tuple[int, int], np.ndarray]]


class _Base(NamedTuple):
    """What a program gives undisturbed: at its readings, and where things can be held."""

    readings: list[Reading]
    outputs: list[jax.Array]
    held: list[jax.Array]


def reached(
    program: ClosedJaxpr, leaves: Sequence[Any], inputs: Sequence[Any], seed: int = 0
) -> Reached:
    """Perturb every kernel's outputs in turn.

    Args:
      program: a model's jaxpr, of its parameters and then its inputs, each a flat list.
      leaves: the parameters. They are numbered in this order, each row by row.
      inputs: the inputs.
      seed: of the perturbations.
    """
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *(np.size(leaf) for leaf in leaves)])
    places = [
        np.arange(np.size(leaf), dtype=np.int32).reshape(np.shape(leaf)) + np.int32(start)
        for leaf, start in zip(leaves, starts[:-1], strict=True)
    ]
    arguments = [
        *(Known(leaf, False, True, place) for leaf, place in zip(leaves, places, strict=True)),
        *(Known(value, True) for value in inputs),
    ]
    rounds = [_base(program, arguments, rng) for _ in range(2)]
    base = rounds[0]
    channels = [_chosen(each.table.shape[1], len(base.readings)) for each in base.readings]
    probes = np.array(
        [
            (number, channel, level)
            for number, some in enumerate(channels)
            for channel in some
            for level in LEVELS
        ],
        np.int32,
    ).reshape(-1, 3)
    either: list[np.ndarray] = []
    if probes.size:
        changes = _changes(program, [each._replace(place=None) for each in arguments], base)
        there = _directions(rng, base)
        back = [-each for each in there]
        first, second = (
            _in_chunks(partial(changes, each.outputs, each.held, directions), probes)
            for each, directions in zip(rounds, (there, back), strict=True)
        )
        either = [one | other for one, other in zip(first, second, strict=True)]
    changed: dict[int, dict[tuple[int, int], np.ndarray]] = {level: {} for level in LEVELS}
    for level in LEVELS:
        for number in range(len(channels)):
            rows = (probes[:, 0] == number) & (probes[:, 2] == level)
            for other, table in enumerate(either):
                if table[rows].any():
                    changed[level][number, other] = table[rows]
    return Reached(base.readings, channels, changed)


def direct(found: Reached, pair: tuple[int, int]) -> np.ndarray | None:
    """Return what reaches an equation from another beside softmaxes and statistics, if anything."""
    some = found.changed[NO_SOFTMAX].get(pair)
    if some is None:
        return None
    sure = found.changed[NO_STATISTICS].get(pair, np.zeros_like(some))
    pooled = some & ~sure
    return np.asarray(sure | (pooled & ((sure | pooled).sum(0) == 1)))


def _base(program: ClosedJaxpr, arguments: Sequence[Known], rng: np.random.Generator) -> _Base:
    base = _Base([], [], [])

    def visit(equation: JaxprEqn, given: list[Known]) -> Sequence[Any]:
        if is_reading(equation, given):
            base.readings.append(reading(equation, given))
            out: Any = equation.outvars[0].aval
            base.outputs.append(jnp.asarray(rng.normal(size=out.shape), out.dtype))
            return base.outputs[-1:]
        values = _computed(equation, given)
        if _holds(equation, given) is not None:
            base.held.append(values[0])
        return values

    walk(program, arguments, visit)
    return base


def _computed(equation: JaxprEqn, given: Sequence[Known]) -> list[Any]:
    """Compute an equation; of a maximum with zero half of what is below passes, too."""
    values = [each.value for each in given]
    found = evaluate(equation, values)
    zeros = [isinstance(each, Literal) and np.ndim(each.val) == 0 and each.val == 0
             for each in equation.invars]  # fmt: skip
    if (
        equation.primitive.name == "max"
        and any(zeros)
        and jnp.issubdtype(found[0].dtype, jnp.floating)
    ):
        found[0] = found[0] + jnp.minimum(*values) / 2
    return found


def _holds(equation: JaxprEqn, given: Sequence[Known]) -> int | None:
    """Return the level from which on the value of an equation is held."""
    name = equation.primitive.name
    if name == "exp":
        return NO_SOFTMAX
    reduces = name.startswith(("reduce_", "cum", "arg")) and not name.startswith("reduce_window")
    meets = name == "dot_general" and all(each.active for each in given)
    return NO_STATISTICS if (reduces and name != "reduce_precision") or meets else None


def _changes(
    program: ClosedJaxpr, arguments: Sequence[Known], base: _Base
) -> Callable[..., list[jax.Array]]:
    """Return ``(outputs, held, directions, probes) -> [probes, inputs]`` of every reading.

    The first probe of each level is to disturb nothing.
    """

    def operands(outputs: Any, held: Any, directions: Any, probe: jax.Array) -> list[jax.Array]:
        number, channel, level = probe
        read: list[jax.Array] = []
        kept = iter(held)

        def visit(equation: JaxprEqn, given: list[Known]) -> Sequence[Any]:
            if is_reading(equation, given):
                at = len(read)
                how, output = base.readings[at], outputs[at]
                read.append(given[how.operand].value)
                own = (numbers(output.shape, how.outputs) == channel) & (number == at)
                return [jnp.where(own, output + directions[at], output)]
            values = _computed(equation, given)
            holds = _holds(equation, given)
            if holds is not None:
                values[0] = jnp.where(level >= holds, next(kept), values[0])
            return values

        visit_all: Visit = visit
        walk(program, arguments, visit_all)
        return read

    def changes(outputs: Any, held: Any, directions: Any, probes: jax.Array) -> list[jax.Array]:
        read = jax.vmap(lambda probe: operands(outputs, held, directions, probe))(probes)
        return [
            _changed(value, probes[:, 2], how.inputs)
            for value, how in zip(read, base.readings, strict=True)
        ]

    return jax.jit(changes)


def _changed(values: jax.Array, level: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Return which inputs of a reading differ from those of the undisturbed probe of the level."""
    if not axes:
        return jnp.zeros((len(values), 0), bool)
    tolerance = 1e-5 if values.dtype == jnp.float32 else 1e-2
    values = values.astype(jnp.float32)
    size = jnp.sqrt(jnp.mean(jnp.nan_to_num(values[0]) ** 2)) + 1e-6
    far = jnp.abs(values - values[level]) > tolerance * size
    rest = [axis for axis in range(values.ndim - 1) if axis not in axes]
    order = (0, *(axis + 1 for axis in (*axes, *rest)))
    count = int(np.prod([values.shape[axis + 1] for axis in axes]))
    return far.transpose(order).reshape(len(values), count, -1).any(-1)


def _directions(rng: np.random.Generator, base: _Base) -> list[jax.Array]:
    """Draw what is added to outputs: far more than they are, so that what saturates is left.

    It is at the latest where the same is taken away.
    """
    drawn = [rng.normal(size=output.shape) for output in base.outputs]
    return [
        jnp.asarray(6 * (value + np.sign(value)), output.dtype)
        for value, output in zip(drawn, base.outputs, strict=True)
    ]


def _in_chunks(changes: Callable[[Any], Any], probes: np.ndarray) -> list[np.ndarray]:
    """Run probes, some at a time, each time behind undisturbed ones."""
    still = np.array([(-1, 0, level) for level in LEVELS], np.int32)
    parts = []
    for start in range(0, len(probes), CHUNK):
        some = np.resize(still[:1], (CHUNK, 3))
        own = probes[start : start + CHUNK]
        some[: len(own)] = own
        found = changes(np.concatenate([still, some]))
        parts.append([np.asarray(each)[len(still) : len(still) + len(own)] for each in found])
    return [np.concatenate(each) for each in zip(*parts, strict=True)]


def _chosen(count: int, equations: int) -> np.ndarray:
    """Choose channels to perturb: all, or pairs of neighbours, which share a group of a norm."""
    most = min(max(PROBES // equations, LEAST), MOST)
    if count <= most:
        return np.arange(count)
    first = np.linspace(0, count - 2, most // 2).astype(int) // 2 * 2
    return np.unique(np.concatenate([first, first + 1]))

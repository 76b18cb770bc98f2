"""Norms of activations and of gradients on data, layer by layer of a traced model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from lap_jax.graph.chain import check_fits
from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import IDENTITY, Layer
from lap_jax.scoring.norms import add_up
from lap_jax.scoring.propagation import Measured
from lap_jax.scoring.scores import widen
from lap_jax.tracing import channels
from lap_jax.tracing.channels import Act
from lap_jax.tracing.interpreter import Reader, loop_of, read
from lap_jax.tracing.model import as_model
from lap_jax.tracing.rules import Draft, at_step, is_stacked, reader, stacked_up, unrolled
from lap_jax.tracing.trace import model_program


class _Both(NamedTuple):
    """A value as channel numbers and as an array."""

    seen: Any
    array: jax.Array


def measure(
    apply_fn: Any, variables: Any, *inputs: Any, graph: Graph, key: jax.Array | None = None,
    **static: Any,
) -> dict[str, Measured]:  # fmt: skip
    """Measure what reaches the layers of a model on data, and what it makes of their outputs.

        input[j]**2  = mean over samples and positions of x[j]**2
        active[k]    = share of what neuron k passes on that is not zero (1 where nobody reads it)
        output[k]**2 = mean over samples, sum over positions, of (d(z . y) / d(out[k]))**2

    with y the model's output and z standard normal: an estimate of the squared norm of the whole
    Jacobian behind neuron k. The inputs may be noise: on standard normal inputs and a linear model
    ``input`` estimates the norm of the Jacobian before j, and the scores the distortion of the
    whole network, which the norms of the neighbours (Eq. 5) only approach.

    Each can be left out, ``measured._replace(output=None)``; Wanda is "LBP" with ``input`` alone.

    Args:
      apply_fn, variables, *inputs, **static: as in `trace`, with arrays; several samples.
      graph: of the same model, from `trace`.
      key: PRNG key of z.

    Returns:
      By layer name, float32. Layers inside of a loop over time are left out.

    Raises:
      PruningError: as `trace`, or if the graph is of other parameters.

    Example:
      >>> from lap_jax import lookahead_masks, trace
      >>> params = {"a": {"kernel": jnp.ones((4, 3))}, "b": {"kernel": jnp.ones((3, 2))}}
      >>> model = lambda p, x: jax.nn.relu(x @ p["a"]["kernel"]) @ p["b"]["kernel"]
      >>> x = jnp.ones((5, 4))
      >>> graph = trace(model, params, x)
      >>> measured = measure(model, params, x, graph=graph)
      >>> measured["b"].input.tolist()
      [4.0, 4.0, 4.0]
      >>> masks = lookahead_masks(params, graph, 0.5, measured=measured)
    """
    function, variables, inputs = as_model(apply_fn, variables, inputs)
    key = jax.random.key(0) if key is None else key

    @jax.jit
    def run(variables: Any, inputs: Any, key: jax.Array) -> dict[str, Any]:
        program, draft, values = model_program(function, variables, inputs, static)
        check_fits(graph, draft.shapes)
        arrays = jax.tree.leaves((variables, inputs))
        pairs = [_Both(value, array) for value, array in zip(values, arrays, strict=True)]

        def forward(taps: dict[int, jax.Array] | None) -> Any:
            tape = _Tape(taps)
            outs = read(_both(_fresh(draft), tape), program, pairs)
            results = [out.array for out in outs if jnp.issubdtype(out.array.dtype, jnp.floating)]
            return results, tape

        shapes = jax.eval_shape(lambda: forward(None)[1].outputs)
        taps = {place: jnp.zeros(each.shape, each.dtype) for place, each in shapes.items()}
        notes: dict[str, Any] = {}

        def probed(taps: dict[int, jax.Array]) -> tuple[jax.Array, dict[str, Any]]:
            results, tape = forward(taps)
            notes["tape"] = tape
            keys = jax.random.split(key, len(results))
            sums = [
                jnp.sum(widen(out) * jax.random.normal(each, out.shape, widen(out).dtype))
                for each, out in zip(keys, results, strict=True)
            ]
            return sum(sums, jnp.zeros(())), tape.inputs

        changes, energies = jax.grad(probed, has_aux=True)(taps)
        tape = notes["tape"]
        return {"inputs": energies, "outputs": _outputs(tape, changes)}

    found = run(variables, inputs, key)
    passed = {name: parts["share"] for name, parts in found["inputs"].items()}
    return {
        layer.name: Measured(
            found["inputs"][layer.name]["norm"] if layer.name in found["inputs"] else None,
            _active(graph, layer, passed),
            found["outputs"].get(layer.name),
        )
        for layer in graph.layers
        if layer.name in found["inputs"] or layer.name in found["outputs"]
    }


class _Tape:
    """What is met on the way through a model."""

    def __init__(self, taps: dict[int, jax.Array] | None):
        self.taps = taps
        self.outputs: dict[int, jax.Array] = {}
        self.places: dict[int, tuple[str, Act]] = {}
        self.inputs: dict[str, dict[str, jax.Array]] = {}
        self.energy: dict[str, list[tuple[jax.Array, jax.Array, int]]] = {}


def _fresh(draft: Draft) -> Draft:
    return Draft(draft.shapes, draft.kernels)


def _both(draft: Draft, tape: _Tape) -> Reader:
    """Return how to read a program as channel numbers and as arrays at once."""
    plain = reader(draft)

    def literal(value: Any) -> _Both:
        return _Both(plain.literal(value), value)

    def equation(eqn: JaxprEqn, values: list[_Both]) -> Sequence[_Both]:
        draft.met.clear()
        seen = plain.equation(eqn, [value.seen for value in values])
        arrays = eqn.primitive.bind(*(value.array for value in values), **eqn.params)
        arrays = list(arrays) if eqn.primitive.multiple_results else [arrays]
        for name, rows in draft.met:
            arrays[0] = _note(draft, tape, name, rows, values, seen[0], arrays[0])
        return [_Both(*pair) for pair in zip(seen, arrays, strict=True)]

    def at(value: _Both, step: int) -> _Both:
        return _Both(at_step(value.seen, step), value.array[step])

    def stack(parts: Sequence[_Both]) -> _Both:
        seen = stacked_up([part.seen for part in parts])
        return _Both(seen, jnp.stack([part.array for part in parts]))

    def whole(eqn: JaxprEqn, values: list[_Both], seen: Sequence[Any]) -> Sequence[_Both]:
        arrays = eqn.primitive.bind(*(value.array for value in values), **eqn.params)
        return [_Both(*pair) for pair in zip(seen, arrays, strict=True)]

    def branches(eqn: JaxprEqn, values: list[_Both], run: Callable[..., Any]) -> Sequence[_Both]:
        seen = plain.branches(
            eqn, [value.seen for value in values],
            lambda branch, new: read(plain, branch, new),
        )  # fmt: skip
        return whole(eqn, values, seen)

    def loop(eqn: JaxprEqn, values: list[_Both], run: Callable[..., Any]) -> Sequence[_Both]:
        _, n_consts, n_carry = loop_of(eqn)
        over = values[n_consts + n_carry :]
        if not any(is_stacked(value.seen) for value in over):
            body = eqn.params["jaxpr"]
            seen = plain.loop(
                eqn, [value.seen for value in values], lambda new: read(plain, body, new)
            )
            return whole(eqn, values, seen)
        return unrolled(eqn, values, run, at, stack)

    return Reader(literal, equation, branches, loop, draft.calls)


def _note(
    draft: Draft, tape: _Tape, name: str, rows: np.ndarray | None, values: Sequence[_Both],
    seen: Act, array: jax.Array,
) -> jax.Array:  # fmt: skip
    """Note what reaches a layer, and tap its output."""
    if rows is not None:
        (x,) = (value.array for value in values if isinstance(value.seen, Act))
        square, active = widen(x) ** 2, (x != 0).astype(jnp.float32)
        size = draft.nodes[name].in_size
        count = x.size // size
        energy = _by_channel(square, rows, size) / count
        share = _by_channel(active, rows, size) / count
        if name in tape.inputs:  # read again
            old = tape.inputs[name]
            times = old["times"] + 1
            energy = (old["norm"] ** 2 * old["times"] + energy) / times
            share = (old["share"] * old["times"] + share) / times
        else:
            times = jnp.ones(())
        tape.inputs[name] = {"norm": jnp.sqrt(energy), "share": share, "times": times}
    place = len(tape.outputs)
    tape.outputs[place], tape.places[place] = array, (name, seen)
    return array if tape.taps is None else array + tape.taps[place]


def _outputs(tape: _Tape, changes: dict[int, jax.Array]) -> dict[str, jax.Array]:
    energies: dict[str, jax.Array] = {}
    for place, change in changes.items():
        name, seen = tape.places[place]
        ids = seen.routes[0].ids
        size = int(channels.small(ids).max()) + 1
        energy = _by_channel(widen(change) ** 2, ids, size) / change.shape[0]
        energies[name] = energies.get(name, 0.0) + energy
    return {name: jnp.sqrt(energy) for name, energy in energies.items()}


def _by_channel(values: jax.Array, ids: np.ndarray, size: int) -> jax.Array:
    """Return sums of values over the elements of each channel, ``[size]``."""
    thin = channels.small(ids)
    for axis in range(values.ndim):
        if thin.shape[axis] == 1 and values.shape[axis] > 1:
            values = jnp.expand_dims(add_up(values, axis), axis)
    return jnp.zeros(size, values.dtype).at[thin.ravel()].add(values.reshape(-1))


def _active(graph: Graph, layer: Layer, share: dict[str, jax.Array]) -> jax.Array:
    """Return how much of what each output passes on is not zero, where its readers meet it."""
    total, count = np.zeros(layer.out_size), np.zeros(layer.out_size)
    for edge in graph.out_of(layer.name):
        if edge.target == IDENTITY or edge.target not in share:
            continue
        found = np.asarray(share[edge.target])
        channel, entry = edge.pairs_of(layer.out_size, found.size).T
        np.add.at(total, channel, found[entry])
        np.add.at(count, channel, 1)
    return jnp.asarray(np.where(count > 0, total / np.maximum(count, 1), 1.0), jnp.float32)

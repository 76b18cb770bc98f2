"""Norms of activations and of gradients on data, layer by layer of a traced model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.graph.chain import check_fits
from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import IDENTITY, Layer, nearest
from lap_jax.scoring.propagation import Measured
from lap_jax.scoring.scores import widen
from lap_jax.tracing import channels
from lap_jax.tracing.builder import GraphBuilder
from lap_jax.tracing.interpreter import read
from lap_jax.tracing.model import as_model
from lap_jax.tracing.pairs import Pair, by_channel, pair_interpreter
from lap_jax.tracing.trace import model_program


class _Input(NamedTuple):
    """What has reached a layer: means by input, over as many reads of it."""

    square: jax.Array
    active: jax.Array
    times: int


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
      By layer name, float32. Layers inside of a loop over time, or of a branch, are left out, and
      so are the outputs of those that share a contraction, or whose kernel parameters scale.
      Derivatives are those of the model, custom ones too; but where a layer is read inside of a
      `jax.custom_jvp` or `jax.custom_vjp`, they are of what that computes.

    Raises:
      PruningError: as `trace`, if the graph is of other parameters or of another model, or if what
        is measured is NaN or infinite.

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
    def run(
        variables: Any, inputs: Any, key: jax.Array
    ) -> tuple[dict[str, _Input], dict[str, jax.Array]]:  # fmt: skip
        program, builder, values = model_program(function, variables, inputs, static)
        check_fits(graph, builder.shapes)
        arrays = jax.tree.leaves((variables, inputs))
        pairs = [Pair(*pair) for pair in zip(values, arrays, strict=True)]

        def forward(taps: dict[int, jax.Array] | None) -> tuple[list[jax.Array], _Tape]:
            own, tape = GraphBuilder(builder.shapes, builder.kernels), _Tape(taps)
            outs = read(pair_interpreter(own, tape.note, tape.tap), program, pairs)
            _check_layers(graph, own)
            return [
                out.array for out in outs if jnp.issubdtype(out.array.dtype, jnp.floating)
            ], tape

        shapes = jax.eval_shape(lambda: forward(None)[1].outputs)
        taps = {place: jnp.zeros(each.shape, each.dtype) for place, each in shapes.items()}

        def probed(taps: dict[int, jax.Array]) -> tuple[jax.Array, dict[str, _Input]]:
            results, tape = forward(taps)
            places.update(tape.places)
            keys = jax.random.split(key, len(results))
            sums = [
                jnp.sum(widen(out) * jax.random.normal(each, out.shape, widen(out).dtype))
                for each, out in zip(keys, results, strict=True)
            ]
            return sum(sums, jnp.zeros(())), tape.inputs

        places: dict[int, tuple[str, np.ndarray]] = {}
        changes, met = jax.grad(probed, has_aux=True)(taps)
        return met, _outputs(places, changes)

    met, outputs = run(variables, inputs, key)
    shares = {name: each.active for name, each in met.items()}
    measured = {
        layer.name: Measured(
            jnp.sqrt(met[layer.name].square) if layer.name in met else None,
            _active(graph, layer, shares),
            outputs.get(layer.name),
        )
        for layer in graph.layers
        if layer.name in met or layer.name in outputs
    }
    _check_finite(measured)
    return measured


def _check_layers(graph: Graph, builder: GraphBuilder) -> None:
    """Refuse a graph with layers that the model does not read."""
    for name in graph.names:
        if name not in builder.layers:
            raise PruningError(
                f"layer {name!r} of the graph is not read by the model"
                f"{nearest(name, builder.layers)}: pass the graph that trace gives of this model"
            )


def _check_finite(measured: dict[str, Measured]) -> None:
    """Refuse NaN and infinite norms, where they can be seen: first where they came in."""
    for name, found in measured.items():
        for field, values in zip(found._fields, found, strict=True):
            if values is None or isinstance(values, jax.core.Tracer):
                continue
            bad = int((~np.isfinite(np.asarray(values))).sum())
            if bad:
                raise PruningError(
                    f"the measured {field} of layer {name!r} is NaN or infinite in {bad} of "
                    f"{values.size} neurons: mend the inputs, or the parameters before it"
                )


class _Tape:
    """What is met on the way through a model.

    Attributes:
      taps: what is added to the outputs of layers, by place; None to find out their shapes.
      outputs: by place.
      places: the layer at each, and the channels of its output.
      inputs: by layer.
    """

    def __init__(self, taps: dict[int, jax.Array] | None):
        self.taps = taps
        self.outputs: dict[int, jax.Array] = {}
        self.places: dict[int, tuple[str, np.ndarray]] = {}
        self.inputs: dict[str, _Input] = {}

    def note(self, name: str, x: jax.Array, rows: np.ndarray, size: int) -> None:
        """Note what reaches a layer, once more where it is read again."""
        square, active = _energies(x, rows, size)
        old = self.inputs.get(name)
        if old is not None:
            times = old.times + 1
            square = (old.square * old.times + square) / times
            active = (old.active * old.times + active) / times
        self.inputs[name] = _Input(square, active, 1 if old is None else old.times + 1)

    def tap(self, name: str, ids: np.ndarray, array: jax.Array) -> jax.Array:
        """Note what a layer gives, and return it with what is added."""
        place = len(self.outputs)
        self.outputs[place], self.places[place] = array, (name, ids)
        return array if self.taps is None else array + self.taps[place]


def _energies(x: jax.Array, rows: np.ndarray, size: int) -> tuple[jax.Array, jax.Array]:
    """Return means over samples and positions, by input: of squares, and of what is not zero."""
    count = x.size // size
    square, active = widen(x) ** 2, (x != 0).astype(jnp.float32)
    return by_channel(square, rows, size) / count, by_channel(active, rows, size) / count


def _outputs(
    places: Mapping[int, tuple[str, np.ndarray]], changes: Mapping[int, jax.Array]
) -> dict[str, jax.Array]:
    """Return norms of changes by layer and channel, means over samples."""
    energies: dict[str, jax.Array] = {}
    for place, change in changes.items():
        name, ids = places[place]
        size = int(channels.small(ids).max()) + 1
        energy = by_channel(widen(change) ** 2, ids, size) / change.shape[0]
        energies[name] = energies.get(name, 0.0) + energy
    return {name: jnp.sqrt(energy) for name, energy in energies.items()}


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

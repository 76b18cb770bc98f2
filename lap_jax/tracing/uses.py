"""How often a model uses the weights of each layer: what they cost."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from lap_jax.graph.chain import check_fits
from lap_jax.graph.graph import Graph
from lap_jax.tracing.builder import GraphBuilder
from lap_jax.tracing.interpreter import read
from lap_jax.tracing.model import as_model
from lap_jax.tracing.pairs import Pair, pair_interpreter
from lap_jax.tracing.trace import model_program


def uses(
    apply_fn: Any, variables: Any, *inputs: Any, graph: Graph, **static: Any
) -> dict[str, int]:
    """Return how often each weight of a layer is multiplied by something, on these inputs.

    Of a dense layer the number of samples and tokens that it reads, of a convolution that of the
    positions that it gives; none of an embedding, whose rows are looked up. ``layer.size`` times
    that are the multiply-adds of a layer. Nothing is computed: shapes will do.

    Args:
      apply_fn, variables, *inputs, **static: as in `trace`.
      graph: of the same model, from `trace`.

    Returns:
      By layer name; none for layers inside of a loop over time or of a branch.

    Raises:
      PruningError: as `trace`, or if the graph is of other parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> from lap_jax import trace
      >>> params = {"a": {"kernel": jnp.ones((4, 3))}, "b": {"kernel": jnp.ones((3, 2))}}
      >>> model = lambda p, x: (x @ p["a"]["kernel"]).mean(1) @ p["b"]["kernel"]
      >>> x = jnp.ones((5, 7, 4))
      >>> uses(model, params, x, graph=trace(model, params, x))
      {'a': 35, 'b': 5}
    """
    function, variables, inputs = as_model(apply_fn, variables, inputs)
    read_at, given_at = dict[str, int](), dict[str, int]()

    def run(variables: Any, inputs: Any) -> None:
        program, builder, values = model_program(function, variables, inputs, static)
        check_fits(graph, builder.shapes)
        own = GraphBuilder(builder.shapes, builder.kernels)

        def reaches(name: str, x: jax.Array, _: np.ndarray, size: int) -> None:
            read_at[name] = read_at.get(name, 0) + x.size // size

        def gives(name: str, _: np.ndarray, array: jax.Array) -> jax.Array:
            size = own.layers[name].out_size
            given_at[name] = given_at.get(name, 0) + array.size // size
            return array

        arrays = jax.tree.leaves((variables, inputs))
        pairs = [Pair(*pair) for pair in zip(values, arrays, strict=True)]
        read(pair_interpreter(own, reaches, gives), program, pairs)

    jax.eval_shape(run, variables, inputs)
    # What a convolution reads is spread otherwise than what it gives; of layers that share a
    # contraction only what they read is told apart.
    return {
        layer.name: (given_at if layer.is_conv else read_at).get(layer.name, 0)
        for layer in graph.layers
    }

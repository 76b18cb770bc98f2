"""The graph from a model itself: what its jaxpr says of who feeds whom."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from lap_jax.errors import PruningError
from lap_jax.graph.chain import float_kernel
from lap_jax.graph.graph import Graph
from lap_jax.paths import leaves_by_path
from lap_jax.tracing.builder import GraphBuilder
from lap_jax.tracing.interpreter import read
from lap_jax.tracing.model import as_model
from lap_jax.tracing.primitives import graph_interpreter
from lap_jax.tracing.values import FromParams, Power, Traced, Value, traced
from lap_jax.tracing.views import whole


def trace(apply_fn: Any, variables: Any, *inputs: Any, **static: Any) -> Graph:
    """Read from a model which kernels feed which, and through which channels.

    The model is traced to a jaxpr, which is followed with channel numbers in place of data: nothing
    is computed. Residual sums, gates and the scales of norms become junctions. What cannot be read
    is a barrier: lookahead stops there, with a factor of one, and `Graph.barriers` tells where and
    for which layers. A leaf of two axes or more is a layer, or is listed with the reason in
    `Graph.unread`: a bias or a scale, a table whose entries no data choose, such as positions, or
    a kernel that could not be read.

    A kernel that is read several times in one way is one layer, with the neighbours of all reads;
    one that is read in several ways (an embedding that is also the head) is a layer a way, and its
    scores are added in squares. Stacked kernels, which a ``scan`` goes through, are a layer each.

    A kernel that the model makes of a leaf entry by entry (cast, standardised, normed, quantised,
    masked, turned) is that leaf, with parameters that scale its channels as factors; what else
    scales it is told in `Graph.notes`. Kernels side by side in one contraction are a layer each, a
    sum of kernels is a sum of layers (LoRA), a product of two is two in a row (low rank).

    Taken as approximations, and not reported: slopes of activations and statistics of a norm count
    as constants (a mean over channels that goes on to a layer alone is their sum); the same channel
    at several positions (pixels, tokens) is one; factors that change with the position, such as
    rotary angles, count with their root mean square; a query-key product ends at the softmax; where
    data choose among channels, or weigh them, these add up.

    Args:
      apply_fn: ``apply_fn(variables, *inputs, **static)``; a Linen module stands for its ``apply``,
        an NNX or Equinox module for a call of itself.
      variables: as the model takes them: ``{"params": ..., "batch_stats": ...}``, a tree of
        parameters, a ``TrainState``, an ``nnx.State`` (what it lacks is the module's own), or an
        Equinox module. Arrays or ``jax.ShapeDtypeStruct``. NNX and Equinox modules hold their own:
        ``trace(model, *inputs)``.
      *inputs: examples, or their ``jax.ShapeDtypeStruct``.
      **static: arguments that are not traced, such as ``train=False``.

    Returns:
      The graph, its layers in the order in which they are first read. Paths are those of the
      parameters: for Linen without the name of the collection.

    Raises:
      PruningError: if no kernel is found, or a batch norm uses the statistics of the batch: trace
        the model as it is used after training.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"a": {"kernel": jnp.ones((4, 3))}, "b": {"kernel": jnp.ones((3, 2))}}
      >>> model = lambda p, x: jax.nn.relu(x @ p["a"]["kernel"]) @ p["b"]["kernel"]
      >>> print(trace(model, params, jnp.ones((1, 4))))
      layer  kernel    shape  in  out  norm  previous  next
      -----  --------  -----  --  ---  ----  --------  ----
      a      a/kernel  4x3     4    3  -     -         b
      b      b/kernel  3x2     3    2  -     a         -
    """
    function, variables, inputs = as_model(apply_fn, variables, inputs)
    program, empty, values = model_program(function, variables, inputs, static)
    sums: frozenset[Hashable] = frozenset()
    while True:
        builder = replace(deepcopy(empty), sums=sums)
        for result in traced(read(graph_interpreter(builder), program, values)):
            builder.end(result)
        if builder.more_sums <= sums:
            break
        sums |= builder.more_sums
    if not builder.layers:
        reasons = [str(each) for each in builder.left.values() if each.is_weight]
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        raise PruningError(
            "the model reads no kernel in a way that can be followed: "
            + "; ".join(reasons[:3])
            + more
            if reasons
            else "the model reads no kernel from the variables given: pass the tree that holds "
            "them, such as {'params': ..., 'batch_stats': ...} or nnx.state(model)"
        )
    _check_statistics(builder)
    return builder.build()


def model_program(
    function: Callable[..., Any], variables: Any, inputs: Sequence[Any], static: Mapping[str, Any]
) -> tuple[Any, GraphBuilder, list[Value]]:
    """Return a model's jaxpr, an empty builder of its graph, and what goes into the jaxpr."""
    leaves = leaves_by_path(variables)
    program = jax.make_jaxpr(lambda variables, inputs: function(variables, *inputs, **static))(
        variables, tuple(inputs)
    )
    builder = GraphBuilder(
        {path: tuple(leaf.shape) for path, leaf in leaves.items()},
        frozenset(path for path, leaf in leaves.items() if float_kernel(leaf)),
    )
    for path, leaf in leaves.items():
        if jnp.issubdtype(leaf.dtype, jnp.floating) and path not in builder.kernels:
            builder.leave([path], f"kernels of {leaf.dtype} are not pruned")
    values: list[Value] = [
        FromParams(tuple(leaf.shape), (Power(whole(path, leaf.shape)),))
        for path, leaf in leaves.items()
    ]
    values += [Traced(tuple(jnp.shape(leaf)), unit=True) for leaf in jax.tree.leaves(inputs)]
    return program, builder, values


def _check_statistics(builder: GraphBuilder) -> None:
    used = {power.view.leaf for part in builder.junctions.values() for power in part.powers}
    for path in builder.shapes:
        stem, _, last = path.rpartition("/")
        scale = f"{stem}/scale"
        absent = scale in builder.shapes and scale not in used  # it is in no part that was called
        if last == "var" and f"{stem}/mean" in builder.shapes and path not in used and not absent:
            raise PruningError(
                f"batch norm {stem!r} does not use its running variance: trace the model as it is "
                "after training, with train=False or use_running_average=True"
            )

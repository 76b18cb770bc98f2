"""The graph from a model itself: what its jaxpr says of who feeds whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.graph.chain import float_kernel
from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import IDENTITY, Barrier, Edge, Factor, Index, Junction
from lap_jax.graph.shortcuts import fold_norms
from lap_jax.paths import leaves_by_path
from lap_jax.tracing.channels import Act
from lap_jax.tracing.interpreter import read
from lap_jax.tracing.model import as_model
from lap_jax.tracing.rules import Draft, reader
from lap_jax.tracing.views import Known, Power, whole


def trace(apply_fn: Any, variables: Any, *inputs: Any, **static: Any) -> Graph:
    """Read from a model which kernels feed which, and through which channels.

    The model is traced to a jaxpr, which is followed with channel numbers in place of data: nothing
    is computed. Residual sums, gates and the scales of norms become junctions. What cannot be read
    is a barrier: lookahead stops there, with a factor of one, and `Graph.barriers` tells where and
    for which layers.

    A kernel that is read several times in one way is one layer, with the neighbours of all reads;
    one that is read in several ways (an embedding that is also the head) is a layer a way, and its
    scores are added in squares. Stacked kernels, which a ``scan`` goes through, are a layer each.

    Taken as approximations, and not reported: slopes of activations and statistics of a norm count
    as constants; the same channel at several positions (pixels, tokens) is one; factors that change
    with the position, such as rotary angles, count with their root mean square; a query-key product
    ends at the softmax.

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
    program, draft, values = model_program(function, variables, inputs, static)
    results = read(reader(draft), program, values)
    for result in results:
        if isinstance(result, Act):
            draft.end(result)
    if not draft.nodes:
        raise PruningError(
            "the model reads no kernel from the variables given: pass the tree that holds them, "
            "such as {'params': ..., 'batch_stats': ...} or nnx.state(model)"
        )
    _check_statistics(draft)
    return _graph(draft)


def model_program(
    function: Callable[..., Any], variables: Any, inputs: Sequence[Any], static: Mapping[str, Any]
) -> tuple[Any, Draft, list[Known | Act]]:
    """Return a model's jaxpr, an empty draft of its graph, and what goes into the jaxpr."""
    leaves = leaves_by_path(variables)
    program = jax.make_jaxpr(lambda variables, inputs: function(variables, *inputs, **static))(
        variables, tuple(inputs)
    )
    draft = Draft(
        {path: tuple(leaf.shape) for path, leaf in leaves.items()},
        frozenset(path for path, leaf in leaves.items() if float_kernel(leaf)),
    )
    values: list[Known | Act] = [
        Known(tuple(leaf.shape), (Power(whole(path, leaf.shape)),)) for path, leaf in leaves.items()
    ]
    values += [Act(tuple(jnp.shape(leaf)), unit=True) for leaf in jax.tree.leaves(inputs)]
    return program, draft, values


def _check_statistics(draft: Draft) -> None:
    used = {power.view.leaf for powers in draft.factors.values() for power in powers}
    for path in draft.shapes:
        stem, _, last = path.rpartition("/")
        scale = f"{stem}/scale"
        absent = scale in draft.shapes and scale not in used  # it is in no part that was called
        if last == "var" and f"{stem}/mean" in draft.shapes and path not in used and not absent:
            raise PruningError(
                f"batch norm {stem!r} does not use its running variance: trace the model as it is "
                "after training, with train=False or use_running_average=True"
            )


def _graph(draft: Draft) -> Graph:
    """Put a draft into a graph."""
    sizes = {name: node.out_size for name, node in draft.nodes.items()} | draft.sizes
    edges = []
    for (source, target), parts in draft.edges.items():
        by_scale: dict[float, list[np.ndarray]] = {}
        for pairs, scale in parts:
            by_scale.setdefault(scale, []).append(pairs)
        for scale, found in by_scale.items():
            pairs = np.unique(np.concatenate(found), axis=0)
            edges.append(_edge(draft, source, target, pairs, scale, sizes))
    fans_in, fans_out = _count(edges, "target"), _count(edges, "source")
    edges = [
        replace(edge, scale=1.0)
        if fans_in[edge.target] == 1 and fans_out[edge.source] == 1
        else edge
        for edge in edges
    ]
    junctions = tuple(
        Junction(name, size, draft.kinds[name], _factors(draft, name), draft.lines[name])
        for name, size in draft.sizes.items()
    )
    graph = Graph(tuple(draft.nodes.values()), tuple(edges), junctions, _barriers(draft))
    return fold_norms(_in_order(graph))


def _count(edges: Sequence[Edge], end: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for edge in edges:
        counts[getattr(edge, end)] = counts.get(getattr(edge, end), 0) + 1
    return counts


def _in_order(graph: Graph) -> Graph:
    """Return the graph with its edges in the order of what they enter."""
    names = [*graph.names, *(junction.name for junction in graph.junctions), IDENTITY]
    place = {name: index for index, name in enumerate(names)}
    return replace(graph, edges=tuple(sorted(graph.edges, key=lambda edge: place[edge.target])))


def _edge(
    draft: Draft, source: str, target: str, pairs: np.ndarray, scale: float,
    sizes: Mapping[str, int],
) -> Edge:  # fmt: skip
    """Write an edge with positions and an offset where these tell all of it."""
    if IDENTITY in (source, target):
        return Edge(source, target, scale=scale)
    width = draft.nodes[target].in_size if target in draft.nodes else draft.sizes[target]
    count = sizes[source]
    order = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
    positions = len(order) // count
    if positions and len(order) == positions * count and width % positions == 0:
        offset = int(order[0, 1])
        rows = np.arange(positions)[:, None] * (width // positions) + offset + np.arange(count)
        channels = np.broadcast_to(np.arange(count), rows.shape)
        if np.array_equal(order, np.stack([channels.ravel(), rows.ravel()], 1)):
            return Edge(source, target, positions, offset, scale=scale)
    return Edge(source, target, pairs=draft.index(order), scale=scale)


def _factors(draft: Draft, name: str) -> tuple[Factor, ...]:
    factors = []
    for power, entries in zip(
        draft.factors.get(name, ()), draft.entries.get(name, ()), strict=True
    ):
        own = len(entries) == _size(draft, power.view.leaf) and np.array_equal(
            entries, np.arange(len(entries))
        )
        factors.append(
            Factor(power.view.leaf, power.power, power.shift, None if own else Index(entries))
        )
    return tuple(factors)


def _size(draft: Draft, leaf: str) -> int:
    return int(np.prod(draft.shapes[leaf]))


def _barriers(draft: Draft) -> tuple[Barrier, ...]:
    return tuple(
        Barrier(primitive, where, tuple(before), tuple(after), why)
        for (primitive, where, why), (before, after) in draft.barriers.items()
    )

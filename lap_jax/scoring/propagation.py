"""What the neighbours of a layer make of its weights: energies through edges, junctions and norms.

The distortion of a weight is Eq. 4 of the paper on the block that reaches one layer back and one
ahead. In a graph the block starts at the inputs of all layers that bring something to the
weight's layer, each with inputs of its own, and ends at the outputs of all layers that read what
it makes; in between activations count as linear. Removing ``w`` from input ``j`` to output ``k``
changes the block by a matrix of rank one, the column that leads to ``j`` times the row that leads
from ``k``, so that

    distortion = |w| * ||block inputs -> j|| * ||k -> block outputs||

Blocks' inputs and outputs are different coordinates, so squared norms of several layers before or
after add up; an identity branch is one coordinate more, a sum is the union of what it adds, a
concatenation picks rows, a norm multiplies by its gain. With one layer before and one after it is
Eq. 5, with batch norms Eq. 9. A gate has no Jacobian without data: there the other branch counts
with the norm that it brings. A longer horizon starts and ends the block further out and takes
products of kernels as if no two paths met twice (the path score).

All values are amplitudes, one per channel: roots of energies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import IDENTITY, Edge, Index, Junction, Node
from lap_jax.scoring.norms import euclidean

Flows = Mapping[str, tuple[jax.Array, jax.Array]]
ALL = "all"


class Measured(NamedTuple):
    """What was measured of a layer on data; None leaves it to the weights.

    Attributes:
      input: norm of each input neuron, ``[in]``, in place of what the layers before bring.
      active: share of samples in which each output neuron is active, ``[out]``: it passes
        ``sqrt(active)`` on (LAP-act).
      output: norm of the network's change with each output neuron, ``[out]``, in place of what the
        layers after ask for.
    """

    input: jax.Array | None = None
    active: jax.Array | None = None
    output: jax.Array | None = None


class Reach(NamedTuple):
    """What is known of a network, and what has been worked out of it.

    Attributes:
      graph: who feeds whom.
      flows: ``{layer: (in [in], out [out])}``, norms of its kernel by input and by output neuron.
      gains: ``{layer or junction: [out]}`` of norms and scales behind it.
      weigh: ``(layer, amplitudes, forward) -> amplitudes`` through a layer's squared kernel; only
        for a horizon beyond one.
      measured: by layer.
      found: what has been worked out.
    """

    graph: Graph
    flows: Flows
    gains: Mapping[str, jax.Array]
    weigh: object
    measured: Mapping[str, Measured]
    found: dict[tuple[str, str, int | str], jax.Array | None]


def before(reach: Reach, name: str, horizon: int | str) -> jax.Array:
    """Return what reaches each input of a layer or junction, ``[in]``.

        before[j]**2 = sum over edges of scale**2 * brought[source of j]**2

    (in a product junction the product); an identity branch brings one, and a layer without edges
    reads ones (the paper's tensors of ones, up to a constant).
    """
    key = ("before", name, horizon)
    if key not in reach.found:
        reach.found[key] = None  # being worked out: met again, it is a loop
        part = _part(reach.graph, name)
        rows = []
        for edge in reach.graph.into(name):
            if edge.source == IDENTITY:
                rows.append(jnp.ones((1, part.in_size), jnp.float32))
            else:
                rows.append(
                    _spread(edge, _scaled(edge, brought(reach, edge.source, horizon)), part)
                )
        reach.found[key] = _meet(part, rows, part.in_size)
    return _told(reach, key)


def brought(reach: Reach, name: str, horizon: int | str) -> jax.Array:
    """Return what a layer or junction brings to whoever reads it, ``[out]``."""
    part = _part(reach.graph, name)
    if isinstance(part, Junction):
        value = before(reach, name, horizon)
    elif horizon == 1:
        value = reach.flows[name][1]
    else:
        value = reach.weigh(name, before(reach, name, _less(horizon)), True)  # type: ignore[operator]
    return value * reach.gains[name] if name in reach.gains else value


def after(reach: Reach, name: str, horizon: int | str) -> jax.Array:
    """Return what is made of each output of a layer or junction, ``[out]``; its norm included.

    after[k]**2 = a[k]**2 * sum over edges of scale**2 * sum over inputs c that k feeds of
                  asked[c]**2
    """
    key = ("after", name, horizon)
    if key not in reach.found:
        reach.found[key] = None
        part = _part(reach.graph, name)
        rows = []
        for edge in reach.graph.out_of(name):
            if edge.target == IDENTITY:
                rows.append(jnp.ones((1, part.out_size), jnp.float32))
            else:
                rows.append(_collect(edge, _scaled(edge, _asked(reach, edge, horizon)), part))
        value = _meet(None, rows, part.out_size)
        reach.found[key] = value * reach.gains[name] if name in reach.gains else value
    return _told(reach, key)


def _asked(reach: Reach, edge: Edge, horizon: int | str) -> jax.Array:
    """Return what the target of an edge makes of each of its inputs, ``[in]``."""
    part = _part(reach.graph, edge.target)
    if isinstance(part, Node):
        if horizon == 1:
            return reach.flows[edge.target][0]
        return reach.weigh(  # type: ignore[operator]
            edge.target, after(reach, edge.target, _less(horizon)), False
        )
    asked = after(reach, edge.target, horizon)
    if part.kind == "product":
        for other in reach.graph.into(edge.target):
            if other != edge:
                value = _scaled(other, brought(reach, other.source, horizon))
                asked = asked * _norm(_spread(other, value, part))
    return asked


def _told(reach: Reach, key: tuple[str, str, int | str]) -> jax.Array:
    value = reach.found[key]
    if value is None:
        raise PruningError(
            f"{key[1]!r} feeds itself, as weights do that are read again and again: horizon "
            f"{key[2]!r} has no end there; use horizon=1"
        )
    return value


def _less(horizon: int | str) -> int | str:
    return horizon - 1 if isinstance(horizon, int) else horizon


def _part(graph: Graph, name: str) -> Node | Junction:
    return graph.parts[name]


def _scaled(edge: Edge, values: jax.Array) -> jax.Array:
    return values if edge.scale == 1 else values * edge.scale


def _meet(part: Node | Junction | None, rows: list[jax.Array], size: int) -> jax.Array:
    if not rows:
        return jnp.ones(size, jnp.float32)
    if isinstance(part, Junction) and part.kind == "product":
        return jnp.prod(jnp.stack([_norm(row) for row in rows]), 0)
    return _norm(jnp.concatenate(rows))


def _norm(rows: jax.Array) -> jax.Array:
    """Return the norm over the first axis; of a single row, the row itself."""
    return rows[0] if rows.shape[0] == 1 else euclidean(rows, 0)


def _spread(edge: Edge, values: jax.Array, target: Node | Junction) -> jax.Array:
    """Bring values per output channel of the source to the inputs of the target, in rows."""
    if edge.pairs is not None:
        return _taken(values, _table(edge.pairs, 1, 0, target.in_size))
    width = target.in_size // edge.positions
    after = width - edge.offset - values.size
    return jnp.tile(jnp.pad(values, (edge.offset, after)), edge.positions)[None]


def _collect(edge: Edge, values: jax.Array, source: Node | Junction) -> jax.Array:
    """Bring values per input of the target to the source's channels, in rows."""
    if edge.pairs is not None:
        return _taken(values, _table(edge.pairs, 0, 1, source.out_size))
    per_position = values.reshape(edge.positions, -1)
    return per_position[:, edge.offset : edge.offset + source.out_size]


def _table(pairs: Index, by: int, other: int, size: int) -> np.ndarray:
    """Return the numbers ``other`` that go with each ``by``: ``[most, size]``, padded with -1."""
    rows = pairs.values[np.argsort(pairs.values[:, by], kind="stable")]
    counts = np.bincount(rows[:, by], minlength=size)
    start = np.cumsum(counts) - counts
    table = np.full((max(counts.max(initial=0), 1), size), -1, np.int32)
    table[np.arange(len(rows)) - start[rows[:, by]], rows[:, by]] = rows[:, other]
    return table


def _taken(values: jax.Array, table: np.ndarray) -> jax.Array:
    taken = values[np.maximum(table, 0)]
    return taken if (table >= 0).all() else jnp.where(table >= 0, taken, 0)

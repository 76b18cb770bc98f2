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

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import IDENTITY, Edge, Junction, Layer
from lap_jax.scoring.amplitudes import Amplitudes, in_memory, norm, product, scaled, times
from lap_jax.scoring.scores import Sides, widen

Flow = tuple[jax.Array, jax.Array]
"""Norms of a kernel: per input neuron ``[in]`` and per output neuron ``[out]``."""


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


class Propagation(NamedTuple):
    """What is known of a network, and what has been worked out of it.

    Attributes:
      graph: who feeds whom.
      flows: ``{layer: (in [in], out [out])}``, norms of its kernel by input and by output neuron.
      gains: ``{layer or junction: [out]}`` of norms and scales behind it.
      weigh: ``(layer, amplitudes, forward) -> amplitudes`` through a layer's squared kernel; only
        for a horizon beyond one.
      measured: by layer.
      found: what has been worked out.
      on_host: whether all of that lies in the host's memory, and is worked out there.
    """

    graph: Graph
    flows: dict[str, Flow]
    gains: Mapping[str, jax.Array]
    weigh: Callable[[str, Amplitudes, bool], jax.Array]
    measured: Mapping[str, Measured]
    found: dict[_Key, _Found]
    on_host: bool = False


_Key = tuple[str, str, int | str]


class _Found(NamedTuple):
    """A value per channel, and the layers whose kernels it was made of; None: being worked out."""

    value: Amplitudes | None
    layers: frozenset[str] = frozenset()


def sides(known: Propagation, layer: Layer, direction: str, horizon: int | str) -> Sides:
    """Return what the neighbours of a layer make of its weights.

        input[j]**2  = sum over the layers before of a_prev[j]**2 * ||W_prev[j, :]||**2
        output[k]**2 = a[k]**2 * sum over the layers after of ||W_next[:, k]||**2

    where an identity branch adds one to the sum, and a side without neighbours counts as one (the
    paper's tensors of ones, up to a constant).

    Args:
      known: the graph and what its layers bring and ask for.
      layer: the layer to score.
      direction: "both", "forward" (the next layers alone) or "backward" (the previous alone).
      horizon: how many layers to look ahead and back, or "all".

    Returns:
      The two sides; None for the one that the direction leaves out.
    """
    measured = known.measured.get(layer.name, Measured())
    left = right = None
    if direction in ("both", "backward"):
        left = measured.input
        left = before(known, layer.name, horizon) if left is None else _read(known, widen(left))
    if direction in ("both", "forward"):
        right = measured.output
        right = after(known, layer.name, horizon) if right is None else _read(known, widen(right))
    return Sides(left, right)


def rests_on(known: Propagation, layer: Layer, direction: str, horizon: int | str) -> set[str]:
    """Return the layers whose kernels, and what counts of them, `sides` is made of."""
    sides(known, layer, direction, horizon)
    made = (known.found.get((side, layer.name, horizon)) for side in ("before", "after"))
    return set().union(*(found.layers for found in made if found))


def removals(known: Propagation, layer: Layer, horizon: int | str) -> Amplitudes:
    """Return what the loss of each input changes in what a layer gives, ``[in]``.

        removals[j] = before[j] * ||W[:, j]||

    which, of a neuron that one layer makes and one reads, is exactly the norm of the change,
    ``||W_in[k, :]|| * ||W_out[:, k]||``. Where ``measured`` holds the layer's inputs, they take the
    place of what the layers before bring.
    """
    reached = sides(known, layer, "backward", horizon).input
    assert reached is not None
    return times(reached, _resolved(_asked(known, layer.name, horizon)))


def changed(known: Propagation, name: str, flow: Flow) -> None:
    """Take a layer's new norms, and forget what was made of its old kernel."""
    known.flows[name] = flow
    for key in [key for key, found in known.found.items() if name in found.layers]:
        del known.found[key]


def before(known: Propagation, name: str, horizon: int | str) -> Amplitudes:
    """Return what reaches each input of a layer or junction, ``[in]``.

        before[j]**2 = sum over edges of scale**2 * output_norms[source of j]**2

    (in a product junction the product); an identity branch brings one, and a layer without edges
    reads ones (the paper's tensors of ones, up to a constant).
    """
    return _resolved(_before(known, name, horizon))


def after(known: Propagation, name: str, horizon: int | str) -> Amplitudes:
    """Return what is made of each output of a layer or junction, ``[out]``; its norm included.

    after[k]**2 = a[k]**2 * sum over edges of scale**2 * sum over inputs c that k feeds of
                  input_norms[c]**2
    """
    return _resolved(_after(known, name, horizon))


def _before(known: Propagation, name: str, horizon: int | str) -> _Found:
    def work() -> _Found:
        part, rows, layers = known.graph.parts[name], [], []
        for edge in known.graph.into(name):
            if edge.source == IDENTITY:
                rows.append(_ones(known, 1, part.in_size))
                continue
            brought = _output_norms(known, edge.source, horizon)
            rows.append(edge.to_target(scaled(_resolved(brought), edge.scale), part.in_size))
            layers.append(brought.layers)
        return _Found(_meet(known, part, rows, part.in_size), frozenset().union(*layers))

    return _once(known, ("before", name, horizon), work)


def _output_norms(known: Propagation, name: str, horizon: int | str) -> _Found:
    """Return what a layer or junction brings to whoever reads it, ``[out]``."""
    if isinstance(known.graph.parts[name], Junction):
        found = _before(known, name, horizon)
    elif horizon == 1:
        found = _Found(_read(known, known.flows[name][1]), frozenset([name]))
    else:
        reached = _before(known, name, _less(horizon))
        value = _read(known, known.weigh(name, _resolved(reached), True))
        found = _Found(value, reached.layers | {name})
    return _gained(known, name, found)


def _after(known: Propagation, name: str, horizon: int | str) -> _Found:
    def work() -> _Found:
        part, rows, layers = known.graph.parts[name], [], []
        for edge in known.graph.out_of(name):
            if edge.target == IDENTITY:
                rows.append(_ones(known, 1, part.out_size))
                continue
            asked = _input_norms(known, edge, horizon)
            rows.append(edge.to_source(scaled(_resolved(asked), edge.scale), part.out_size))
            layers.append(asked.layers)
        found = _Found(_meet(known, None, rows, part.out_size), frozenset().union(*layers))
        return _gained(known, name, found)

    return _once(known, ("after", name, horizon), work)


def _input_norms(known: Propagation, edge: Edge, horizon: int | str) -> _Found:
    """Return what the target of an edge makes of each of its inputs, ``[in]``."""
    name, part = edge.target, known.graph.parts[edge.target]
    if isinstance(part, Layer):
        return _asked(known, name, horizon)
    made = _after(known, name, horizon)
    value, layers = _resolved(made), made.layers
    if part.kind == "product":
        for other in known.graph.into(name):
            if other != edge:
                brought = _output_norms(known, other.source, horizon)
                rows = other.to_target(scaled(_resolved(brought), other.scale), part.in_size)
                value = times(value, norm([rows]))
                layers |= brought.layers
    return _Found(value, layers)


def _asked(known: Propagation, name: str, horizon: int | str) -> _Found:
    """Return what a layer makes of each of its inputs, ``[in]``."""
    if horizon == 1:
        return _Found(_read(known, known.flows[name][0]), frozenset([name]))
    made = _after(known, name, _less(horizon))
    value = _read(known, known.weigh(name, _resolved(made), False))
    return _Found(value, made.layers | {name})


def _once(known: Propagation, key: _Key, work: Callable[[], _Found]) -> _Found:
    """Work a value out when it is first asked for."""
    if key not in known.found:
        known.found[key] = _Found(None)  # met again before it is there, it is a loop
        known.found[key] = work()
    found = known.found[key]
    if found.value is None:
        raise PruningError(
            f"{key[1]!r} feeds itself, as weights do that are read again and again: horizon "
            f"{key[2]!r} has no end there; use horizon=1"
        )
    return found


def _resolved(found: _Found) -> Amplitudes:
    assert found.value is not None
    return found.value


def _gained(known: Propagation, name: str, found: _Found) -> _Found:
    """Multiply by what is behind a layer or junction."""
    if name not in known.gains:
        return found
    return found._replace(value=times(_resolved(found), _read(known, known.gains[name])))


def _less(horizon: int | str) -> int | str:
    return horizon - 1 if isinstance(horizon, int) else horizon


def _meet(
    known: Propagation, part: Layer | Junction | None, rows: list[Amplitudes], size: int
) -> Amplitudes:
    if not rows:
        return _ones(known, size)
    if isinstance(part, Junction) and part.kind == "product":
        return product([norm([row]) for row in rows])
    return norm(rows)


def _read(known: Propagation, values: jax.Array) -> Amplitudes:
    return in_memory(values) if known.on_host else values


def _ones(known: Propagation, *shape: int) -> Amplitudes:
    return (np if known.on_host else jnp).ones(shape, jnp.float32)

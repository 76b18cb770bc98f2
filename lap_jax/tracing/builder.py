"""A graph in the making: what the rules add to it, and what becomes of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import (
    IDENTITY,
    Barrier,
    Edge,
    Factor,
    Index,
    Junction,
    Layer,
    Shared,
    Unread,
)
from lap_jax.graph.shortcuts import fold_norms
from lap_jax.tables import source_line
from lap_jax.tracing.channels import NONE
from lap_jax.tracing.interpreter import out_shapes, where
from lap_jax.tracing.values import (
    Break,
    FromParams,
    Power,
    Source,
    Traced,
    Value,
    breaks_of,
    traced,
)

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

_QUIET = frozenset(("random_bits", "random_wrap", "random_unwrap", "threefry2x32"))


class DraftJunction(NamedTuple):
    """A junction in the making.

    Attributes:
      size, kind, where: as of a `Junction`.
      powers: what multiplies its channels.
      entries: which entry of each power's leaf each channel takes, ``[size]``.
      root: where its channels come from, if it only scales them; itself otherwise.
    """

    size: int
    kind: str
    where: str
    powers: tuple[Power, ...]
    entries: tuple[np.ndarray, ...]
    root: str


class Reading(NamedTuple):
    """That an equation reads a layer.

    Attributes:
      layer: its name.
      rows: which of its inputs each element of the activation is; None for a lookup in a table, and
        where another activation than the equation's own comes in.
    """

    layer: str
    rows: np.ndarray | None


@dataclass
class GraphBuilder:
    """A graph in the making.

    Attributes:
      shapes: of the leaves of the variables, by path.
      kernels: paths of those that can be kernels.
      layers, junctions: by name.
      ways: names of layers, by what tells a way to read a kernel from another.
      edges: ``{(source, target): [(pairs of channel and input [n, 2], scale)]}``.
      barriers: ``{(primitive, line, why): (layers before, layers after)}``, these as keys.
      returned: layers and junctions whose channels the network returns.
      left: why leaves are no layers, by path.
      scaled_by_more: source lines where a layer's kernel is not its leaf alone, by layer.
      readings: of layers, since somebody has emptied it.
      calls: source lines of the calls that are being read, outermost first.
      sums: equations that add up channels and are followed.
      more_sums: others of which no more than the sum goes on to a layer.
      shared: ``{(leaf or product, layer or junction): [pairs]}``: entries that are added to
        channels, and channels of queries and keys by what their weights multiply.
      loose: source lines where leaves are added to channels that no layer gives, by path.
    """

    shapes: dict[str, tuple[int, ...]]
    kernels: frozenset[str]
    layers: dict[str, Layer] = field(default_factory=dict)
    junctions: dict[str, DraftJunction] = field(default_factory=dict)
    ways: dict[tuple[Any, ...], str] = field(default_factory=dict)
    edges: dict[tuple[str, str], list[tuple[np.ndarray, float]]] = field(default_factory=dict)
    barriers: dict[tuple[str, str, str], tuple[dict[str, None], dict[str, None]]] = field(
        default_factory=dict
    )
    returned: set[str] = field(default_factory=set)
    left: dict[str, Unread] = field(default_factory=dict)
    scaled_by_more: dict[str, str] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    sums: frozenset[Hashable] = frozenset()
    more_sums: set[Hashable] = field(default_factory=set)
    shared: dict[tuple[str, str], list[np.ndarray]] = field(default_factory=dict)
    asked: dict[tuple[str, str], list[np.ndarray]] = field(default_factory=dict)
    loose: dict[str, str] = field(default_factory=dict)

    def where(self, eqn: JaxprEqn) -> str:
        """Return the source line of an equation, or of the call that it is part of."""
        return where(eqn) or next((line for line in reversed(self.calls) if line), "")

    # ------------------------------------------------------------ edges and junctions

    def connect(self, source: str, target: str, pairs: np.ndarray, scale: float = 1.0) -> None:
        """Add an edge: ``pairs`` of source channel and target input, ``[n, 2]``."""
        self.edges.setdefault((source, target), []).append((pairs.astype(np.int32), scale))

    def connect_identity(self, source: str, target: str) -> None:
        """Add an edge from or to what has no layer."""
        self.connect(source, target, np.zeros((0, 2), np.int32))

    def junction(
        self, kind: str, rows: np.ndarray, sources: Sequence[Source], line: str,
        powers: tuple[Power, ...] = (), scales_only: bool = False,
    ) -> str:  # fmt: skip
        """Add a junction, with what leads to it.

        Args:
          kind: "sum" or "product".
          rows: ``[size, sources + powers]``: for each of its channels, the channel of every source,
            or `NONE`, and the entry of every power's leaf.
          sources, powers: what comes in, and what multiplies it.
          line: the source line.
          scales_only: whether its channels are those of its only source.

        Returns:
          Its name.
        """
        name = f"{'scale' if powers else kind} {len(self.junctions)}"
        root = self.root(sources[0].node) if scales_only else name
        entries = tuple(rows[:, len(sources) + place] for place in range(len(powers)))
        self.junctions[name] = DraftJunction(len(rows), kind, line, powers, entries, root)
        places = np.arange(len(rows), dtype=np.int32)
        for column, source in enumerate(sources):
            held = rows[:, column] != NONE
            pairs = np.stack([rows[held, column], places[held]], 1)
            self.connect(source.node, name, pairs, source.scale)
        return name

    def root(self, node: str) -> str:
        """Return what a junction that only scales gets its channels from."""
        return self.junctions[node].root if node in self.junctions else node

    def layers_before(self, node: str) -> list[str]:
        """Return the layers whose channels meet in a junction, or the layer itself."""
        if node not in self.junctions:
            return [node] if node in self.layers else []
        seen: dict[str, None] = {}
        waiting = [node]
        while waiting:
            for source, target in self.edges:
                if target == waiting[0] and source not in seen:
                    seen[source] = None
                    if source in self.junctions:
                        waiting.append(source)
            waiting.pop(0)
        return [name for name in seen if name in self.layers]

    # ------------------------------------------------------------ where lookahead stops

    def report(self, found: Break, before: Sequence[str] = (), after: Sequence[str] = ()) -> None:
        """Record that lookahead stops."""
        key = (found.primitive, found.where, found.why)
        lost_before, lost_after = self.barriers.setdefault(key, ({}, {}))
        lost_before.update(dict.fromkeys(before))
        lost_after.update(dict.fromkeys(after))

    def lose(self, found: Break, values: Sequence[Value]) -> None:
        """Report that nothing comes after the layers that values hold channels of."""
        for value in traced(values):
            for source in value.sources:
                self.report(found, self.layers_before(source.node))

    def consume(self, value: Traced, layer: str = "") -> None:
        """Report what an activation has lost on its way to a layer, or to the output."""
        for found in value.breaks:
            self.report(found, self.layers_before(found.node), [layer] if layer else [])
            if found.sum is not None and layer:
                self.more_sums.add(found.sum)

    def barrier(self, eqn: JaxprEqn, values: Sequence[Value], why: str) -> list[Traced]:
        """Return the results of an equation that loses all channels."""
        line, name = self.where(eqn), eqn.primitive.name
        nodes = dict.fromkeys(
            source.node for value in traced(values) for source in value.sources
        )  # fmt: skip
        breaks = breaks_of(values) | {Break(node, name, line, why) for node in nodes}
        reads_parameters = any(
            isinstance(value, FromParams) and not value.is_constant for value in values
        )
        known = [value for value in values if isinstance(value, FromParams)]
        self.leave(frozenset().union(*(value.leaves for value in known)), why, line)
        if traced(values) and not nodes and reads_parameters and name not in _QUIET:
            breaks |= {Break("", name, line, why)}
        return [Traced(shape, unit=True, breaks=breaks) for shape in out_shapes(eqn)]

    def leave(
        self, leaves: Iterable[str], why: str, line: str = "", is_weight: bool = True
    ) -> None:
        """Record why leaves are no layers.

        The first reason stays, unless it says that a leaf is no weight and this one does not.
        """
        for path in leaves:
            old = self.left.get(path)
            if len(self.shapes[path]) > 1 and (old is None or is_weight > old.is_weight):
                self.left[path] = Unread(path, self.shapes[path], why, line, is_weight)

    def note(self, layer: str, line: str) -> None:
        """Record that a kernel is its leaf's entries times what no factor tells."""
        self.scaled_by_more.setdefault(layer, line)

    def share(self, ends: tuple[str, str], pairs: np.ndarray) -> None:
        """Record that entries of a leaf, or channels of a product, go with channels: ``[n, 2]``."""
        self.shared.setdefault(ends, []).append(pairs.astype(np.int32))

    def loosen(self, leaves: Iterable[str], line: str) -> None:
        """Record that leaves reach channels in a way that does not tell which entry goes where."""
        for path in leaves:
            self.loose.setdefault(path, line)

    def unseen(self) -> None:
        """Record that what the layer read last takes is not what goes into the equation."""
        self.readings[-1] = self.readings[-1]._replace(rows=None)

    # ------------------------------------------------------------ ends

    def end(self, value: Traced) -> None:
        """Take an output of the network."""
        self.consume(value)
        for source in value.sources:
            used = any(start == source.node for start, _ in self.edges)
            if used and source.node != IDENTITY:
                self.connect_identity(source.node, IDENTITY)
            self.returned.add(source.node)

    def build(self) -> Graph:
        """Return the graph."""
        indices: dict[Index, Index] = {}
        edges = []
        for (source, target), parts in self.edges.items():
            by_scale: dict[float, list[np.ndarray]] = {}
            for pairs, scale in parts:
                by_scale.setdefault(scale, []).append(pairs)
            for scale, found in by_scale.items():
                pairs = _by_input(np.concatenate(found))
                edges.append(self._edge(source, target, pairs, scale, indices))
        junctions = tuple(
            Junction(name, part.size, part.kind, self._factors(part), part.where)
            for name, part in self.junctions.items()
        )
        barriers = tuple(
            Barrier(primitive, line, tuple(before), tuple(after), why)
            for (primitive, line, why), (before, after) in self.barriers.items()
        )
        place = {name: i for i, name in enumerate([*self.layers, *self.junctions, IDENTITY])}
        edges = sorted(_without_lone_scales(edges), key=lambda edge: place[edge.target])
        return fold_norms(
            Graph(
                tuple(self.layers.values()), tuple(edges), junctions, barriers,
                returned=frozenset(self.returned - {IDENTITY}), unread=self._unread(),
                shared=self._shared(), asked=self._asked(), loose=tuple(self.loose.items()),
                notes=tuple(
                    f"{layer}: a kernel scaled by what is no factor, such as its own norm, at "
                    f"{source_line(line)}: its norms are those of the parameter alone"
                    for layer, line in self.scaled_by_more.items()
                ),
            )
        )  # fmt: skip

    def _unread(self) -> tuple[Unread, ...]:
        """Return what no layer holds, of the leaves that could be kernels or have a reason."""
        held = {layer.path for layer in self.layers.values()}
        why = "no data meets it: the model does not read it, or not as traced"
        return tuple(
            # A row of numbers is no kernel, whatever axes of size one it has.
            self.left.get(path, Unread(path, shape, why, is_weight=sum(n > 1 for n in shape) > 1))
            for path, shape in self.shapes.items()
            if path not in held and (path in self.kernels or path in self.left)
        )

    def _shared(self) -> tuple[Shared, ...]:
        found = []
        for (source, target), parts in self.shared.items():
            pairs = _by_input(np.concatenate(parts))
            if source in self.shapes:
                pairs = _of_columns(pairs, self.shapes[source])
            found.append(Shared(source, target, Index(pairs)))
        return tuple(found)

    def _asked(self) -> tuple[Shared, ...]:
        return tuple(
            Shared(source, target, Index(_by_input(np.concatenate(parts))))
            for (source, target), parts in self.asked.items()
        )

    def _edge(
        self, source: str, target: str, pairs: np.ndarray, scale: float, indices: dict[Index, Index]
    ) -> Edge:
        """Write an edge with positions and an offset where these tell all of it."""
        if IDENTITY in (source, target):
            return Edge(source, target, scale=scale)
        width, count = self._size(target, "in_size"), self._size(source, "out_size")
        positions = len(pairs) // count
        if positions and len(pairs) == positions * count and width % positions == 0:
            edge = Edge(source, target, positions, int(pairs[0, 1]), scale=scale)
            if np.array_equal(pairs, edge.pairs_of(count, width)):
                return edge
        index = Index(pairs)
        return Edge(source, target, pairs=indices.setdefault(index, index), scale=scale)

    def _size(self, node: str, side: str) -> int:
        if node in self.junctions:
            return self.junctions[node].size
        return int(getattr(self.layers[node], side))

    def _factors(self, part: DraftJunction) -> tuple[Factor, ...]:
        factors = []
        for power, entries in zip(part.powers, part.entries, strict=True):
            leaf = power.view.leaf
            size = math.prod(self.shapes[leaf])
            own = len(entries) == size and np.array_equal(entries, np.arange(size))
            factors.append(
                Factor(leaf, power.power, power.shift, None if own else Index(entries))
            )  # fmt: skip
        return tuple(factors)


def _by_input(pairs: np.ndarray) -> np.ndarray:
    """Return the different pairs, by the input that they reach and then by channel."""
    # Rows as numbers, which are in order already where channels keep theirs: np.unique is slow.
    keys = np.sort(pairs[:, 1].astype(np.int64) << 32 | pairs[:, 0], kind="stable")
    keys = keys[np.diff(keys, prepend=-1) > 0]
    return np.stack([keys & 0xFFFFFFFF, keys >> 32], 1).astype(np.int32)


def _of_columns(pairs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return pairs of entries and channels for all rows of a leaf whose columns are channels.

    Of a table of positions a short input shows the first rows alone.
    """
    width = shape[-1] if shape else 1
    columns = np.unique(np.stack([pairs[:, 0] % width, pairs[:, 1]], 1), axis=0)
    seen = np.unique(pairs[:, 0] // width)
    count = math.prod(shape) // max(width, 1)
    if len(seen) == count or len(columns) * len(seen) != len(pairs):
        return pairs
    rows = np.arange(count)[:, None] * width
    entries = (rows + columns[:, 0]).ravel()
    return np.stack([entries, np.tile(columns[:, 1], count)], 1).astype(np.int32)


def _without_lone_scales(edges: Sequence[Edge]) -> list[Edge]:
    """Drop the scales of edges beside which there is no other at either end: they compare none."""
    into, out_of = Counter(edge.target for edge in edges), Counter(edge.source for edge in edges)
    return [
        replace(edge, scale=1.0) if into[edge.target] == out_of[edge.source] == 1 else edge
        for edge in edges
    ]

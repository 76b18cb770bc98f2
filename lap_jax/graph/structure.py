"""Layers, junctions and the edges between them: what a graph is made of, and how it is changed."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field, replace
from typing import Self

from lap_jax.errors import PruningError
from lap_jax.graph.layers import (
    IDENTITY,
    Barrier,
    Edge,
    Junction,
    Layer,
    Shared,
    Unread,
    matching,
    nearest,
)


@dataclass(frozen=True)
class Structure:
    """Layers in pruning order, first to last, and the edges between them.

    Hashable, so that it can be a static argument of `jax.jit`.

    Attributes:
      layers, edges, junctions: the network.
      barriers: where lookahead stops.
      pinned: names of layers that are not pruned.
      returned: names of layers and junctions whose channels the network returns; what nothing reads
        counts as returned, too.
      unread: leaves of two axes or more that are no layers, each with the reason.
      notes: where norms of a kernel are not those of what the model computes with.
      shared: what else goes with channels: biases, and queries and keys with values.
      asked: which inputs of layers a head of queries brings values to: of a product of queries and
        keys, and of the layer.
      loose: leaves that are added to channels, or put in their place, in a way that does not tell
        which entry goes where: paths and source lines.
      partial: whether edges were taken out, so that it does not tell all that goes together.
    """

    layers: tuple[Layer, ...]
    edges: tuple[Edge, ...]
    junctions: tuple[Junction, ...] = ()
    barriers: tuple[Barrier, ...] = field(default=(), compare=False)
    pinned: frozenset[str] = frozenset()
    returned: frozenset[str] = frozenset()
    unread: tuple[Unread, ...] = field(default=(), compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    shared: tuple[Shared, ...] = ()
    asked: tuple[Shared, ...] = ()
    loose: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    partial: bool = field(default=False, compare=False)

    def __getitem__(self, name: str) -> Layer:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise PruningError(f"no layer {name!r} in the graph{nearest(name, self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers, first to last."""
        return tuple(layer.name for layer in self.layers)

    @property
    def prunable(self) -> tuple[Layer, ...]:
        """Layers that are pruned: each kernel once, without the pinned ones."""
        return tuple(
            layer for layer in self.layers if not layer.tied_to and layer.name not in self.pinned
        )

    @functools.cached_property
    def parts(self) -> dict[str, Layer | Junction]:
        """Layers and junctions by name."""
        parts: list[Layer | Junction] = [*self.layers, *self.junctions]
        return {part.name: part for part in parts}

    @functools.cached_property
    def _ends(self) -> tuple[dict[str, list[Edge]], dict[str, list[Edge]]]:
        into: dict[str, list[Edge]] = {}
        out_of: dict[str, list[Edge]] = {}
        for edge in self.edges:
            into.setdefault(edge.target, []).append(edge)
            out_of.setdefault(edge.source, []).append(edge)
        return into, out_of

    def into(self, name: str) -> tuple[Edge, ...]:
        """Edges that end at the layer or junction ``name``."""
        return tuple(self._ends[0].get(name, ()))

    def out_of(self, name: str) -> tuple[Edge, ...]:
        """Edges that start at the layer or junction ``name``."""
        return tuple(self._ends[1].get(name, ()))

    def ends_at_positions(self, name: str) -> bool:
        """Return whether a junction is a product that weighs positions, as of queries with keys.

        Lookahead ends there, with one for what comes after the softmax.
        """
        part = self.parts.get(name)
        if not isinstance(part, Junction) or part.kind != "product":
            return False
        return bool(self.out_of(name)) and all(e.target == IDENTITY for e in self.out_of(name))

    @property
    def output_layers(self) -> tuple[str, ...]:
        """Names of the layers whose channels the network returns, at once or through junctions."""
        ends = [name for name in self.parts if name in self.returned or not self.out_of(name)]
        seen = dict.fromkeys(ends)
        while ends:
            name = ends.pop()
            if isinstance(self.parts[name], Junction):
                sources = [edge.source for edge in self.into(name) if edge.source in self.parts]
                ends += [source for source in sources if source not in seen]
                seen |= dict.fromkeys(sources)
        return tuple(name for name in self.names if name in seen)

    def pin(self, *names: str) -> Self:
        """Return the graph with layers that are not pruned, but neighbours of those that are.

        Args:
          *names: of layers, or ``fnmatch`` patterns: ``graph.pin("*embed*", "head")``.

        Raises:
          PruningError: for a name or pattern that no layer has, or if nothing is left to prune.
        """
        layers = {layer for name in names for layer in matching(name, self.names)}
        found = replace(self, pinned=self.pinned | layers)
        if not found.prunable:
            raise PruningError("every layer is pinned: leave one to prune")
        return found

    def cut(self, source: str, target: str) -> Self:
        """Return the graph without the edges from one layer or junction to another.

        Raises:
          PruningError: if there is none.
        """
        edges = tuple(edge for edge in self.edges if (edge.source, edge.target) != (source, target))
        if len(edges) == len(self.edges):
            self._check_ends(source, target)
            raise PruningError(f"no edge leads from {source!r} to {target!r}: nothing to cut")
        return replace(self, edges=edges, partial=True)

    def connect(self, *edges: Edge) -> Self:
        """Return the graph with more edges.

        Raises:
          PruningError: if an end is unknown, the channels of the source do not fit the target, or
            a scale is negative or not finite.
        """
        for edge in edges:
            self._check_ends(edge.source, edge.target)
            if not 0 <= edge.scale < math.inf:
                raise PruningError(
                    f"the edge from {edge.source!r} to {edge.target!r} has scale {edge.scale!r}: "
                    "expected a finite number of 0 or more; of a negative one, give the size"
                )
            if IDENTITY in (edge.source, edge.target):
                continue
            source, target = self.parts[edge.source], self.parts[edge.target]
            if not edge.fits(source.out_size, target.in_size):
                raise PruningError(
                    f"the edge from {edge.source!r} with {source.out_size} outputs does not fit "
                    f"{edge.target!r} with {target.in_size} inputs: mend positions, offset or pairs"
                )
        return replace(self, edges=(*self.edges, *edges))

    def _check_ends(self, *names: str) -> None:
        for name in names:
            if name != IDENTITY and name not in self.parts:
                hint = nearest(name, self.parts)
                raise PruningError(f"no layer or junction {name!r} in the graph{hint}")

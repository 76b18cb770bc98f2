"""What feeds what: a graph of layers."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from lap_jax import drawing, edits
from lap_jax.errors import PruningError
from lap_jax.nodes import Barrier, Edge, Junction, Node, nearest
from lap_jax.text import text_table


@dataclass(frozen=True)
class Graph:
    """Layers in pruning order, first to last, and the edges between them.

    Hashable, so that it can be a static argument of `jax.jit`. ``print(graph)`` shows a table.
    """

    layers: tuple[Node, ...]
    edges: tuple[Edge, ...]
    junctions: tuple[Junction, ...] = ()
    barriers: tuple[Barrier, ...] = field(default=(), compare=False)
    pinned: frozenset[str] = frozenset()

    def __getitem__(self, name: str) -> Node:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise PruningError(f"no layer {name!r} in the graph{nearest(name, self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers, first to last."""
        return tuple(layer.name for layer in self.layers)

    @property
    def prunable(self) -> tuple[Node, ...]:
        """Layers that are pruned: each kernel once, without the pinned ones."""
        return tuple(
            layer for layer in self.layers if not layer.reads and layer.name not in self.pinned
        )

    @functools.cached_property
    def parts(self) -> dict[str, Node | Junction]:
        """Layers and junctions by name."""
        parts: list[Node | Junction] = [*self.layers, *self.junctions]
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

    def pin(self, *names: str) -> Graph:
        """Return the graph with layers that stay dense, and are neighbours still."""
        return edits.pin(self, *names)

    def cut(self, source: str, target: str) -> Graph:
        """Return the graph without the edges from one layer or junction to another."""
        return edits.cut(self, source, target)

    def connect(self, *edges: Edge) -> Graph:
        """Return the graph with more edges."""
        return edits.connect(self, *edges)

    def main_path(self) -> Graph:
        """Return the graph without shortcuts, as the paper sees a residual network."""
        return edits.main_path(self)

    def identity_shortcuts(self) -> Graph:
        """Return the graph with ones for what shortcuts bring, and for what becomes of it."""
        return edits.identity_shortcuts(self)

    def draw(self, path: str) -> None:
        """Write a picture, SVG."""
        drawing.draw(self, path)

    def __str__(self) -> str:
        header = ("layer", "kernel", "shape", "in", "out", "norm", "previous", "next")
        rows = [
            (
                layer.name + (" (pinned)" if layer.name in self.pinned else ""),
                layer.path + "".join(f"[{index}]" for index in layer.place),
                "x".join(map(str, layer.shape)) + _details(layer),
                str(layer.in_size),
                str(layer.out_size),
                layer.norm.path if layer.norm else "-",
                *self._neighbours(layer.name),
            )
            for layer in self.layers
        ]
        text = text_table(header, rows, right=(3, 4))
        if self.junctions:
            junctions = [
                (part.name, str(part.size), ", ".join(map(str, part.factors)) or "-",
                 *self._neighbours(part.name), part.where)
                for part in self.junctions
            ]  # fmt: skip
            titles = ("junction", "channels", "times", "previous", "next", "line")
            text += "\n\n" + text_table(titles, junctions, right=(1,))
        for barrier in self.barriers:
            text += "\n\n" + str(barrier)
        return text

    def _neighbours(self, name: str) -> tuple[str, str]:
        return (
            ", ".join(_end(edge.source, edge) for edge in self.into(name)) or "-",
            ", ".join(_end(edge.target, edge) for edge in self.out_of(name)) or "-",
        )


def _details(layer: Node) -> str:
    parts = [
        f"{field}={value}"
        for field, value in (
            ("groups", layer.groups),
            ("strides", layer.strides),
            ("pool", layer.pool),
        )
        if value != 1
    ]
    return f" ({', '.join(parts)})" if parts else ""


def _end(name: str, edge: Edge) -> str:
    """One end of an edge as the table shows it: with its flatten and its offset."""
    if edge.pairs is not None:
        return f"{name} by {len(edge.pairs.values)} pairs"
    flatten = f" x{edge.positions} positions" if edge.positions > 1 else ""
    return name + flatten + (f" at {edge.offset}" if edge.offset else "")

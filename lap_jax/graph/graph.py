"""What feeds what: a graph of layers."""

from __future__ import annotations

import functools

from lap_jax.graph import drawing, shortcuts
from lap_jax.graph.groups import Neurons, neurons_of
from lap_jax.graph.layers import Edge, Layer
from lap_jax.graph.structure import Structure
from lap_jax.tables import source_line, text_table


class Graph(Structure):
    """Layers in pruning order, first to last, and the edges between them.

    Hashable, so that it can be a static argument of `jax.jit`. ``print(graph)`` shows a table.
    """

    def main_path(self) -> Graph:
        """Return the graph without shortcuts, as the paper sees a residual network."""
        return shortcuts.main_path(self)

    def identity_shortcuts(self) -> Graph:
        """Return the graph with ones for what shortcuts bring, and for what becomes of it."""
        return shortcuts.identity_shortcuts(self)

    @functools.cached_property
    def neurons(self) -> Neurons:
        """Which neurons there are: what goes together when one of them is removed."""
        return neurons_of(self)

    @functools.cached_property
    def _queries(self) -> Neurons:
        return neurons_of(self, queries=True)

    def neurons_by(self, queries: bool) -> Neurons:
        """Return the neurons; of grouped queries single ones, or keys with all that share them."""
        return self._queries if queries else self.neurons

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
                layer.norm or "-",
                *self._neighbours(layer.name),
            )
            for layer in self.layers
        ]
        text = text_table(header, rows, right=(3, 4))
        if self.junctions:
            junctions = [
                (part.name, str(part.size), ", ".join(map(str, part.factors)) or "-",
                 *self._neighbours(part.name), source_line(part.where).split(" ")[0])
                for part in self.junctions
            ]  # fmt: skip
            titles = ("junction", "channels", "times", "previous", "next", "line")
            text += "\n\n" + text_table(titles, junctions, right=(1,))
        for barrier in self.barriers:
            text += "\n\n" + str(barrier)
        for note in self.notes:
            text += "\n\nnote: " + note
        if self.unread:
            left = [
                (each.path, "x".join(map(str, each.shape)), each.why,
                 source_line(each.where).split(" ")[0])
                for each in self.unread
            ]  # fmt: skip
            text += "\n\n" + text_table(("no layer", "shape", "why", "line"), left, right=())
        return text

    def _neighbours(self, name: str) -> tuple[str, str]:
        before = dict.fromkeys(_end(edge.source, edge) for edge in self.into(name))
        after = dict.fromkeys(_end(edge.target, edge) for edge in self.out_of(name))
        return (
            ", ".join(before) or "-",
            "ends here: it weighs positions"
            if self.ends_at_positions(name)
            else ", ".join(after) or "-",
        )


def _details(layer: Layer) -> str:
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

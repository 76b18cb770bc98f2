"""What feeds what: layers, the norms after them and the edges between them.

Flax ends every kernel in (in, out): Dense ``[in, out]``, Conv ``[*window, in / groups, out]``.
Input and output *neurons* of a convolution are its channels.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass

from lap_jax.errors import PruningError
from lap_jax.text import text_table

IDENTITY = "identity"
"""As a previous or next layer: a branch that passes the activations on unchanged."""


@dataclass(frozen=True)
class Norm:
    """A normalisation after a layer, by its path in ``params`` and ``batch_stats``.

    Its gain per channel is ``|scale| / sqrt(var + epsilon)`` (Eq. 8 and 9 of the paper); a scale
    that is absent counts as one.

    Attributes:
      path: e.g. ``"BatchNorm_0"``.
      epsilon: the layer's own epsilon; Flax's default is 1e-5.
      statistics: whether running statistics exist. ``False`` for layer, group and RMS norm, whose
        gain is then ``|scale|`` alone.
    """

    path: str
    epsilon: float = 1e-5
    statistics: bool = True


@dataclass(frozen=True)
class Edge:
    """Channel ``c`` of ``source`` reaches input ``position * width + offset + c`` of ``target``.

    ``width`` is the target's input size divided by ``positions``: more than one position where a
    flatten joins a convolution ``[h, w, c]`` to a dense layer (Flax: c varies fastest), an offset
    where several sources are concatenated. Source or target may be `IDENTITY`.
    """

    source: str
    target: str
    positions: int = 1
    offset: int = 0


@dataclass(frozen=True)
class Node:
    """A layer of a `Graph`: everything about it is known.

    Attributes:
      name: the kernel's path without a last ``/kernel``.
      path: normalised path of the kernel in the parameter tree.
      shape: of the kernel, ``(*window, in / groups, out)``.
      groups: feature groups of a convolution, else 1.
      norm: the norm after the layer.
      strides, pool: as declared.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    groups: int = 1
    norm: Norm | None = None
    strides: int = 1
    pool: int = 1

    @property
    def in_size(self) -> int:
        """Number of input neurons (channels, of a convolution)."""
        return self.shape[-2] * self.groups

    @property
    def out_size(self) -> int:
        """Number of output neurons."""
        return self.shape[-1]

    @property
    def size(self) -> int:
        """Number of weights in the kernel."""
        return math.prod(self.shape)

    @property
    def is_conv(self) -> bool:
        """Whether the kernel has window axes."""
        return len(self.shape) > 2


@dataclass(frozen=True)
class Graph:
    """Layers in pruning order, first to last, and the edges between them.

    Hashable, so that it can be a static argument of `jax.jit`. ``print(graph)`` shows a table.
    """

    layers: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def __getitem__(self, name: str) -> Node:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise PruningError(f"no layer {name!r} in the graph{nearest(name, self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers, first to last."""
        return tuple(layer.name for layer in self.layers)

    def into(self, name: str) -> tuple[Edge, ...]:
        """Edges that end at the layer ``name``."""
        return tuple(edge for edge in self.edges if edge.target == name)

    def out_of(self, name: str) -> tuple[Edge, ...]:
        """Edges that start at the layer ``name``."""
        return tuple(edge for edge in self.edges if edge.source == name)

    def __str__(self) -> str:
        header = ("layer", "kernel", "shape", "in", "out", "norm", "previous", "next")
        rows = [
            (
                layer.name,
                layer.path,
                "x".join(map(str, layer.shape)) + _details(layer),
                str(layer.in_size),
                str(layer.out_size),
                layer.norm.path if layer.norm else "-",
                ", ".join(_end(edge.source, edge) for edge in self.into(layer.name)) or "-",
                ", ".join(_end(edge.target, edge) for edge in self.out_of(layer.name)) or "-",
            )
            for layer in self.layers
        ]
        return text_table(header, rows, right=(3, 4))


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
    flatten = f" x{edge.positions} positions" if edge.positions > 1 else ""
    return name + flatten + (f" at {edge.offset}" if edge.offset else "")


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint for an error message: the names nearest to an unknown one, if any are near."""
    close = difflib.get_close_matches(name, list(dict.fromkeys(names)), n=3, cutoff=0.4)
    return f"; nearest: {', '.join(map(repr, close))}" if close else ""

"""What a graph is made of: layers, the norms after them, junctions and edges.

Flax ends every kernel in (in, out): Dense ``[in, out]``, Conv ``[*window, in / groups, out]``.
Input and output *neurons* of a convolution are its channels.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

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


class Index:
    """Whole numbers that can be compared and hashed, and so be part of a `Graph`.

    Attributes:
      values: int32, read-only.
    """

    __slots__ = ("_hash", "values")

    def __init__(self, values: np.ndarray):
        """Take a copy of the values."""
        self.values = np.array(values, np.int32, order="C")
        self.values.flags.writeable = False
        self._hash = hash((self.values.shape, self.values.tobytes()))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Index)
            and self._hash == other._hash
            and np.array_equal(self.values, other.values)
        )

    def __repr__(self) -> str:
        return f"Index({'x'.join(map(str, self.values.shape))})"


@dataclass(frozen=True)
class Edge:
    """Channel ``c`` of ``source`` reaches input ``position * width + offset + c`` of ``target``.

    ``width`` is the target's input size divided by ``positions``: more than one position where a
    flatten joins a convolution ``[h, w, c]`` to a dense layer (Flax: c varies fastest), an offset
    where several sources are concatenated. Source or target may be `IDENTITY`.

    Attributes:
      source, target: names of layers or junctions.
      positions, offset: as above.
      pairs: where channels go another way, ``[n, 2]``: source channel, input of the target. Then
        positions and offset say nothing.
      scale: a constant that multiplies the activations on the way.
    """

    source: str
    target: str
    positions: int = 1
    offset: int = 0
    pairs: Index | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Factor:
    """A parameter that multiplies channels: ``|leaf + shift| ** power``.

    Attributes:
      path: of the leaf, in ``params`` or ``batch_stats``.
      power, shift: e.g. -0.5 and epsilon, for a variance.
      entries: which entry of the (raveled) leaf each channel takes; None: its own.
    """

    path: str
    power: float = 1.0
    shift: float = 0.0
    entries: Index | None = None

    def __str__(self) -> str:
        text = self.path if self.shift == 0 else f"({self.path} + {self.shift:g})"
        return text if self.power == 1 else f"{text}^{self.power:g}"


@dataclass(frozen=True)
class Junction:
    """Where edges meet without a kernel: a residual sum, a gate, or the scale of a norm.

    Attributes:
      name: e.g. ``"sum 3"``.
      size: number of channels.
      kind: "sum" adds what the edges bring, "product" multiplies it.
      factors: what multiplies the channels.
      where: the source line.
    """

    name: str
    size: int
    kind: str = "sum"
    factors: tuple[Factor, ...] = ()
    where: str = field(default="", compare=False)

    @property
    def in_size(self) -> int:
        """Number of channels, which are inputs and outputs."""
        return self.size

    @property
    def out_size(self) -> int:
        """Number of channels, which are inputs and outputs."""
        return self.size


@dataclass(frozen=True)
class Barrier:
    """Where lookahead stops, with a factor of one in place of a neighbour.

    Attributes:
      primitive: what could not be read.
      where: the source line.
      before: layers that lose what comes after.
      after: layers that lose what comes before.
      why: in words.
    """

    primitive: str
    where: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        lost = [
            f"{', '.join(names)} lose{'s' if len(names) == 1 else ''} what comes {side}"
            for names, side in ((self.before, "after"), (self.after, "before"))
            if names
        ]
        line = f" at {self.where}" if self.where else ""
        return f"barrier: {self.primitive}{line}: {self.why}; {'; '.join(lost)}"


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
      place: which part of the leaf the kernel is: the first indices, of stacked layers.
      split, order: how that part becomes ``shape``: reshaped to ``split``, its axes put in
        ``order``, and reshaped; empty: it is of that shape (Flax's order).
      reads: the layer that holds the weights, where they are read again another way.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    groups: int = 1
    norm: Norm | None = None
    strides: int = 1
    pool: int = 1
    place: tuple[int, ...] = ()
    split: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    reads: str = ""

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


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint for an error message: the names nearest to an unknown one, if any are near."""
    close = difflib.get_close_matches(name, list(dict.fromkeys(names)), n=3, cutoff=0.4)
    return f"; nearest: {', '.join(map(repr, close))}" if close else ""

"""What a graph is made of: layers, junctions, what multiplies their channels, and edges.

Flax ends every kernel in (in, out): Dense ``[in, out]``, Conv ``[*window, in / groups, out]``.
Input and output *neurons* of a convolution are its channels.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from lap_jax.errors import PruningError
from lap_jax.tables import source_line

A = TypeVar("A", np.ndarray, jax.Array)

IDENTITY = "identity"
"""As a previous or next layer: a branch that passes the activations on unchanged."""


class Index:
    """Whole numbers that can be compared and hashed, and so be part of a `Graph`.

    Attributes:
      values: int32, read-only.
    """

    __slots__ = ("_hash", "values")

    def __init__(self, values: npt.ArrayLike):
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
class Norm:
    """A normalisation after a layer, as declared: by its path in ``params`` and ``batch_stats``.

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

    @property
    def factors(self) -> tuple[Factor, ...]:
        """What it multiplies channels by: its scale and, with statistics, a power of its variance.

        With Flax's names of the leaves.
        """
        scale = Factor(f"{self.path}/scale")
        variance = Factor(f"{self.path}/var", -0.5, self.epsilon)
        return (scale, variance) if self.statistics else (scale,)


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

    @property
    def is_plain(self) -> bool:
        """Whether channel ``c`` reaches input ``c`` alone."""
        return self.positions == 1 and self.offset == 0 and self.pairs is None

    def fits(self, source_size: int, target_size: int) -> bool:
        """Return whether every channel of so many reaches inputs, of so many, that exist."""
        if self.pairs is not None:
            values = self.pairs.values
            if values.shape[1:] != (2,):
                return False
            return bool(((values >= 0) & (values < (source_size, target_size))).all())
        whole = all(isinstance(n, (int, np.integer)) for n in (self.positions, self.offset))
        if not whole or self.positions < 1 or target_size % self.positions:
            return False
        return 0 <= self.offset <= target_size // self.positions - source_size

    def pairs_of(self, source_size: int, target_size: int) -> np.ndarray:
        """Return all of the channel map: rows of source channel and input, ``[n, 2]``, int32.

        Args:
          source_size: number of channels of the source.
          target_size: number of inputs of the target.
        """
        if self.pairs is not None:
            return self.pairs.values
        width = target_size // self.positions
        channels = np.arange(source_size, dtype=np.int32)
        starts = np.arange(self.positions, dtype=np.int32) * width + self.offset
        inputs = starts[:, None] + channels
        return np.stack([np.broadcast_to(channels, inputs.shape), inputs], -1).reshape(-1, 2)

    def to_target(self, values: A, target_size: int) -> A:
        """Bring values of the source's channels to the inputs that they reach.

        Args:
          values: ``[source channels, ...]``, of NumPy or of JAX, of any dtype.
          target_size: number of inputs of the target.

        Returns:
          ``[rows, target_size, ...]``: one row, or as many as the channels that one input takes at
          most; zero where nothing arrives.
        """
        if self.pairs is not None:
            return self._taken(values, 1, target_size)
        array: Any = values
        xp: Any = np if isinstance(values, np.ndarray) else jnp
        rest: int = array.ndim - 1
        after = target_size // self.positions - self.offset - len(array)
        if self.offset or after:
            array = xp.pad(array, ((self.offset, after), *((0, 0),) * rest))
        if self.positions > 1:
            array = xp.tile(array, (self.positions, *(1,) * rest))
        return array[None]

    def to_source(self, values: A, source_size: int) -> A:
        """Bring values of the target's inputs to the channels that reach them.

        Args:
          values: ``[target inputs, ...]``, of NumPy or of JAX, of any dtype.
          source_size: number of channels of the source.

        Returns:
          ``[rows, source_size, ...]``: a row for every position, or as many as the inputs that one
          channel reaches at most; zero where it reaches fewer.
        """
        if self.pairs is not None:
            return self._taken(values, 0, source_size)
        array: Any = values
        if self.positions == 1 and len(array) == source_size:
            return array[None]
        array = array.reshape(self.positions, len(array) // self.positions, *array.shape[1:])
        return array[:, self.offset : self.offset + source_size]

    def _taken(self, values: A, by: int, size: int) -> A:
        """Return, by channel (0) or input (1), the values at the other end of its pairs."""
        entries, held = self._table(by, size)
        array: Any = values
        taken = array[entries]
        if held is None:
            return taken
        xp: Any = np if isinstance(values, np.ndarray) else jnp
        held = held.reshape(*held.shape, *(1,) * (array.ndim - 1))
        return xp.where(held, taken, np.zeros((), array.dtype))

    def _table(self, by: int, size: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the numbers that go with each ``by``, ``[most, size]``, and which are no padding.

        That is None where none is. Propagation asks again and again, so that it is kept.
        """
        if (by, size) not in self._tables:
            assert self.pairs is not None
            pairs = self.pairs.values
            rows = pairs[np.argsort(pairs[:, by], kind="stable")]
            counts = np.bincount(rows[:, by], minlength=size)
            starts = np.cumsum(counts) - counts
            most = max(counts.max(initial=0), 1)
            entries, held = np.zeros((most, size), np.int32), np.zeros((most, size), bool)
            place = (np.arange(len(rows)) - starts[rows[:, by]], rows[:, by])
            entries[place], held[place] = rows[:, 1 - by], True
            self._tables[by, size] = entries, None if held.all() else held
        return self._tables[by, size]

    @functools.cached_property
    def _tables(self) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray | None]]:
        return {}


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
class Shared:
    """What goes with the channels of a layer or junction, without leading to it.

    A bias, which is removed with its neuron; or the queries and keys of a head, whose weights are
    of no use without the values that they multiply.

    Attributes:
      source: path of the leaf that is added, or name of the product of queries and keys.
      target: name of the layer or junction.
      pairs: ``[n, 2]``: entry of the (raveled) leaf, or channel of the product, and channel that
        the target gives.
    """

    source: str
    target: str
    pairs: Index


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
        line = f" at {source_line(self.where)}" if self.where else ""
        return f"barrier: {self.primitive}{line}: {self.why}; {'; '.join(lost)}"


@dataclass(frozen=True)
class Unread:
    """A leaf of two axes or more that is no layer of a graph, and is not pruned.

    Attributes:
      path, shape: of the leaf.
      why: in words.
      where: the source line.
      is_weight: whether it may be a kernel or a table; False for what is known to be a bias or to
        multiply channels.
    """

    path: str
    shape: tuple[int, ...]
    why: str
    where: str = ""
    is_weight: bool = True

    def __str__(self) -> str:
        line = f" at {source_line(self.where)}" if self.where else ""
        return f"{self.path} of shape {self.shape}{line}: {self.why}"


@dataclass(frozen=True)
class Layer:
    """A layer of a `Graph`: everything about it is known.

    Attributes:
      name: the kernel's path without a last ``/kernel``.
      path: normalised path of the kernel in the parameter tree.
      shape: of the kernel, ``(*window, in / groups, out)``.
      groups: feature groups of a convolution, else 1.
      factors: what multiplies the outputs, such as the scale and variance of a norm.
      strides, pool: as declared.
      place: which part of the leaf the kernel is: the first indices, of stacked layers.
      split, order: how that part becomes ``shape``: reshaped to ``split``, its axes put in
        ``order``, and reshaped; empty: it is of that shape (Flax's order).
      tied_to: the layer that holds the weights, where they are read again another way.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    groups: int = 1
    factors: tuple[Factor, ...] = ()
    strides: int = 1
    pool: int = 1
    place: tuple[int, ...] = ()
    split: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    tied_to: str = ""

    @property
    def in_size(self) -> int:
        """Number of input neurons (channels, of a convolution)."""
        return self.shape[-2] * self.groups

    @property
    def out_size(self) -> int:
        """Number of output neurons."""
        return self.shape[-1]

    @property
    def norm(self) -> str:
        """Path of the norm, or other module, that the factors belong to; empty without factors."""
        stems = dict.fromkeys(part.path.rpartition("/")[0] or part.path for part in self.factors)
        return ", ".join(stems)

    @property
    def size(self) -> int:
        """Number of weights in the kernel."""
        return math.prod(self.shape)

    @property
    def is_conv(self) -> bool:
        """Whether the kernel has window axes."""
        return len(self.shape) > 2


def added_to(layer: Layer, norm: str | None, known: Mapping[str, Any]) -> list[Shared]:
    """Return what is added to a declared layer's outputs, by Flax's names: biases and means.

    Args:
      layer: declared.
      norm: path of the norm behind it.
      known: leaves by path.
    """
    paths = [f"{layer.path.removesuffix('/kernel')}/bias"]
    paths += [f"{norm}/{part}" for part in ("mean", "bias") if norm is not None]
    own = np.arange(layer.out_size)
    return [
        Shared(path, layer.name, Index(np.stack([own, own], 1)))
        for path in paths
        if path in known and math.prod(jnp.shape(known[path])) == layer.out_size
    ]


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a pattern of `fnmatch` matches, or that it is.

    Raises:
      PruningError: if there is none.
    """
    names = list(names)
    wanted = pattern.removesuffix("/kernel")
    found = [name for name in names if name == wanted or fnmatch.fnmatchcase(name, wanted)]
    if not found:
        hint = nearest(wanted, names) or f"; there are: {', '.join(map(repr, names))}"
        raise PruningError(f"no layer {pattern!r} in the graph{hint}")
    return found


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint for an error message: the names nearest to an unknown one, if any are near."""
    close = difflib.get_close_matches(name, list(dict.fromkeys(names)), n=3, cutoff=0.4)
    return f"; nearest: {', '.join(map(repr, close))}" if close else ""

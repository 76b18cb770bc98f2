"""Which channels of which layers are one neuron, and go or stay together.

A channel that leads to an input is the same neuron, and so are channels that meet in a sum or a
gate, inputs and outputs of a depthwise convolution, and all of a head: connected components of
outputs, inputs and junctions' channels. Neurons that lie between the same layers make a group,
within which they compete.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from lap_jax.errors import PruningError
from lap_jax.graph.components import Places, Side, gates_of_many, neurons_by_channel, strides_of
from lap_jax.graph.layers import IDENTITY, Index, Junction, Layer
from lap_jax.graph.queries import Grouped, grouped_queries, shared_channels
from lap_jax.graph.structure import Structure
from lap_jax.tables import source_line, text_table


@dataclass(frozen=True)
class NeuronGroup:
    """Neurons that compete: hidden neurons, channels, heads, or those of a residual stream.

    Attributes:
      name: of the first layer that writes them.
      kind: "neurons"; "heads", with queries, keys and values, of grouped queries all that share
        keys as one; "streams", where layers write to a sum.
      width: how many neurons.
      start: number of the first, counted over all groups.
      writes, reads: names of the layers whose outputs they are, and whose inputs.
      channels: how many outputs of the first layer each of them is.
      fixed: why they cannot be removed; empty if they can.
    """

    name: str
    kind: str
    width: int
    start: int
    writes: tuple[str, ...]
    reads: tuple[str, ...]
    channels: int = 1
    fixed: str = ""

    @property
    def family(self) -> tuple[str, str, int, int]:
        """What groups of a stack of equal layers have in common."""
        return re.sub(r"\d+", "*", self.name), self.kind, self.width, self.channels


@dataclass(frozen=True)
class Neurons:
    """The neurons of a network. ``print(neurons)`` shows a table of the groups.

    Attributes:
      groups: in the order of the layers.
      sides: by layer and side, which neuron each channel is, counted over all groups; -1: none.
      vectors: by path of a leaf, rows of an entry and a neuron that it belongs to, ``[n, 2]``.
      kept: how many neurons are to stay, by name of the group; empty where nothing is said of that.
    """

    groups: tuple[NeuronGroup, ...]
    sides: Mapping[Side, Index]
    vectors: Mapping[str, Index]
    kept: Mapping[str, int] = field(default_factory=dict)

    @property
    def free(self) -> tuple[NeuronGroup, ...]:
        """The groups whose neurons can be removed."""
        return tuple(group for group in self.groups if not group.fixed)

    def __str__(self) -> str:
        header = ["group", "kind", "neurons", "written by", "read by", "stays because"]
        if self.kept:
            header.insert(3, "kept")
        rows = []
        for group in self.groups:
            each = f" x {group.channels}" if group.channels > 1 else ""
            row = [group.name, group.kind, f"{group.width}{each}", ", ".join(group.writes),
                   ", ".join(group.reads) or "-", group.fixed or "-"]  # fmt: skip
            if self.kept:
                row.insert(3, str(self.kept.get(group.name, group.width)))
            rows.append(row)
        return text_table(header, rows, right=(2, 3) if self.kept else (2,))


def neurons_of(graph: Structure, queries: bool = False) -> Neurons:
    """Return the neurons of a network.

    Args:
      graph: the network.
      queries: of grouped queries single ones, in place of a key with all that share it.

    Raises:
      PruningError: for a graph without some of its edges, which does not tell what goes together.
    """
    if graph.partial:
        raise PruningError(
            "edges of the graph were left out (main_path, identity_shortcuts or cut), so that it "
            "does not tell which neurons go together: use the graph that trace returned"
        )
    places = Places(graph)
    grouped = grouped_queries(graph) if queries else []
    roots = neurons_by_channel(graph, places, grouped)
    return _grouped(graph, places, roots, grouped)


# ---------------------------------------------------------------- what cannot go


class _Reason(NamedTuple):
    places: np.ndarray
    why: str


def _fixed(graph: Structure, places: Places, grouped: list[Grouped]) -> Iterator[_Reason]:
    """Give channels that must stay, and why."""
    for name, own in shared_channels(graph, grouped).items():
        yield _Reason(places.of((name, "out"))[own], "several queries share it")
    for each in grouped:
        if each.why:
            yield _Reason(places.of((each.product, "out")), each.why)

    def side(name: str, which: str, why: str) -> Iterator[_Reason]:
        if (name, which) in places.starts:
            yield _Reason(places.of((name, which)), why)

    ends = {name for name in graph.parts if not graph.out_of(name)} | set(graph.returned)
    for edge in graph.edges:
        if edge.target == IDENTITY and not graph.ends_at_positions(edge.source):
            ends.add(edge.source)
        if edge.source == IDENTITY:
            yield from side(edge.target, "in", "the network's input is part of it")
    for name in graph.parts:
        if name in ends:
            yield from side(name, "out", "the network returns it")
        if graph.ends_at_positions(name):
            pairs = [each.pairs.values[:, 0] for each in graph.shared
                     if each.source == name and each.target != name]  # fmt: skip
            if not pairs:
                why = f"what the weights of {name!r} multiply is not known"
                yield from side(name, "out", why)
    for name in gates_of_many(graph):
        # Nor could a mask take an expert out: a logit of nought has a share in a softmax yet.
        why = "each multiplies several neurons at once; masks leave an expert its share"
        yield from side(name, "out", why)
    for barrier in graph.barriers:
        why = f"barrier: {barrier.primitive}, {barrier.why}"
        for name in barrier.before:
            yield from side(name, "out", why)
        for name in barrier.after:
            yield from side(name, "in", why)
    for layer in graph.layers:
        if layer.name in graph.pinned:
            for which in ("in", "out"):
                yield from side(layer.name, which, f"{layer.name!r} is pinned")
        same = [other for other in graph.layers if other.path == layer.path]
        if any(len(other.place) != len(layer.place) for other in same) or _tied_otherwise(
            graph, layer
        ):
            for which in ("in", "out"):
                yield from side(layer.name, which, f"{layer.path!r} is read in several ways")
    sums = [part for part in graph.junctions if part.kind == "sum" and _is_stream(graph, part.name)]
    for path, line in graph.loose:
        why = f"{path!r} is put in its place, or beside it, at {source_line(line)}"
        for part in sums:
            yield from side(part.name, "out", why)


def _tied_otherwise(graph: Structure, layer: Layer) -> bool:
    """Return whether weights are read again, and not by the same rows or columns."""
    others = [graph[layer.tied_to]] if layer.tied_to else []
    others += [other for other in graph.layers if other.tied_to == layer.name]
    own = strides_of(layer)
    return any(
        not all(own.values()) or set(own.values()) != set(strides_of(other).values())
        for other in others
    )


def _is_stream(graph: Structure, name: str) -> bool:
    """Return whether a junction adds what several layers or junctions bring to one channel."""
    times = np.zeros(graph.parts[name].in_size, int)
    for edge in graph.into(name):
        if edge.source == IDENTITY:
            return True
        if edge.is_plain:
            times[: graph.parts[edge.source].out_size] += 1
            continue
        pairs = edge.pairs_of(graph.parts[edge.source].out_size, len(times))
        times[np.unique(pairs[:, 1])] += 1
    return bool((times > 1).any())


# ---------------------------------------------------------------- groups


def _grouped(
    graph: Structure, places: Places, roots: np.ndarray, grouped: list[Grouped]
) -> Neurons:
    written = np.zeros(len(roots), bool)
    for layer in graph.layers:
        written[roots[places.of((layer.name, "out"))]] = True
    heads = np.flatnonzero(written)
    keys, first, group_of = np.unique(
        _keys(places, roots)[heads], return_index=True, return_inverse=True
    )
    rank = np.argsort(np.argsort(first))[group_of]  # groups in the order of their first neuron
    order = np.argsort(rank, kind="stable")
    numbers, groups_of = np.full(len(roots), -1), np.full(len(roots), -1)
    numbers[heads[order]], groups_of[heads] = np.arange(len(heads)), rank
    numbers, groups_of = numbers[roots], groups_of[roots]
    why = [""] * len(keys)
    for reason in _fixed(graph, places, grouped):
        for group in _present(groups_of[reason.places], len(keys)):
            why[group] = why[group] or reason.why
    sides: dict[Side, Index] = {}
    touched: list[list[Side]] = [[] for _ in keys]
    for side in places.starts:
        own = _present(groups_of[places.of(side)], len(keys))
        if own:
            sides[side] = Index(numbers[places.of(side)])
        for group in own:
            touched[group].append(side)
    widths = np.bincount(rank, minlength=len(keys)).tolist()
    groups = _named(graph, sides, widths, touched, why)
    free = np.zeros(len(heads) + 1, bool)
    for each in groups:
        free[each.start : each.start + each.width] = not each.fixed
    return Neurons(groups, sides, _vectors(graph, sides, free))


def _present(numbers: np.ndarray, count: int) -> list[int]:
    """Return which of the numbers below ``count`` there are; -1 is none."""
    held = np.zeros(count + 1, bool)
    held[numbers] = True
    return np.flatnonzero(held[:-1]).tolist()


def _keys(places: Places, roots: np.ndarray) -> np.ndarray:
    """Return by root a number that neurons between the same layers have in common."""
    rng = np.random.default_rng(0)
    keys = np.zeros(len(roots), np.uint64)
    for side in places.starts:
        np.add.at(keys, roots[places.of(side)], rng.integers(1, 2**63, dtype=np.uint64))
    return keys


def _named(
    graph: Structure, sides: dict[Side, Index], widths: Sequence[int],
    touched: Sequence[Sequence[Side]], why: Sequence[str],
) -> tuple[NeuronGroup, ...]:  # fmt: skip
    """Return the groups.

    Args:
      graph, sides: with the number of each channel's neuron.
      widths, touched, why: by group, how many neurons, on which sides, and why they stay.
    """
    layers = {layer.name for layer in graph.layers}
    streams = {part.name for part in graph.junctions
               if part.kind == "sum" and _is_stream(graph, part.name)}  # fmt: skip
    names: dict[str, int] = {}
    groups = []
    starts = np.cumsum([0, *widths[:-1]]).tolist()
    for found, start, width, fixed in zip(touched, starts, widths, why, strict=True):
        writes = tuple(name for name, which in found if which == "out" and name in layers)
        reads = tuple(name for name, which in found if which == "in" and name in layers)
        parts = {name for name, _ in found} - layers
        kind = "neurons"
        if any(graph.ends_at_positions(name) for name in parts):
            kind = "heads"
        elif parts & streams and not _rotates(graph, parts & streams):
            kind = "streams"
        times = names.setdefault(writes[0], 0)
        names[writes[0]] += 1
        name = writes[0] if not times else f"{writes[0]} ({times + 1})"
        channels = int((sides[writes[0], "out"].values == start).sum())
        groups.append(NeuronGroup(name, kind, width, start, writes, reads, channels, fixed))
    return tuple(groups)


def _rotates(graph: Structure, sums: set[str]) -> bool:
    """Return whether sums bring together channels of one layer alone, as rotary positions do."""

    def origins(name: str) -> set[str]:
        found: set[str] = set()
        for edge in graph.into(name):
            if isinstance(graph.parts.get(edge.source), Junction):
                found |= origins(edge.source)
            else:
                found.add(edge.source)
        return found

    return all(len(origins(name)) == 1 for name in sums)


def _vectors(graph: Structure, sides: dict[Side, Index], free: np.ndarray) -> dict[str, Index]:
    """Return which neurons entries of biases, scales and means belong to, if some can go.

    Args:
      graph, sides: with the number of each channel's neuron.
      free: whether a neuron can go; False at the end, for none.
    """
    rows: dict[str, list[np.ndarray]] = {}
    for part in graph.parts.values():
        if (part.name, "out") not in sides:
            continue
        numbers = sides[part.name, "out"].values
        for factor in part.factors:
            if factor.power == 1 and factor.shift == 0:
                own = np.arange(len(numbers)) if factor.entries is None else factor.entries.values
                rows.setdefault(factor.path, []).append(np.stack([own, numbers], 1))
    for each in graph.shared:
        if each.source in graph.parts or each.target not in graph.parts:
            continue
        pairs = each.pairs.values
        held = sides.get((each.target, "out"))
        numbers = np.full(len(pairs), -1) if held is None else held.values[pairs[:, 1]]
        rows.setdefault(each.source, []).append(np.stack([pairs[:, 0], numbers], 1))
    return {
        path: Index(np.unique(np.concatenate(parts), axis=0))
        for path, parts in rows.items()
        if any(free[part[:, 1]].any() for part in parts)
    }

"""Single heads of grouped queries: several of them share a key, and one of each key's can go.

Query ``j`` of every key is one neuron: all keys are left with equally many queries, and what the
program reshapes to (keys, queries of a key, size) stays a block. Keys and values stay.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lap_jax.graph.layers import IDENTITY, Edge, Shared
from lap_jax.graph.links import Link, components
from lap_jax.graph.structure import Structure


class Grouped(NamedTuple):
    """A product of queries with keys that several of them share.

    Attributes:
      product: its name.
      values: layers or junctions whose channels the weights multiply.
      ranks: of each of its channels, which of its key's queries it belongs to.
      why: why single queries cannot be told; empty if they can.
    """

    product: str
    values: frozenset[str]
    ranks: np.ndarray
    why: str = ""


def grouped_queries(graph: Structure) -> list[Grouped]:
    """Return the products of queries with keys that several of them share."""
    found = []
    for junction in graph.junctions:
        if not graph.ends_at_positions(junction.name):
            continue
        own = [each for each in graph.shared if each.source == junction.name]
        links = [Link(*each.pairs.values.T) for each in own if each.target == junction.name]
        heads = components(junction.size, links)
        values = [each for each in own if each.target in graph.parts
                  and each.target != junction.name]  # fmt: skip
        for each in values:
            own_channel, value = each.pairs.values.T
            _, first, place = np.unique(value, return_index=True, return_inverse=True)
            links.append(Link(own_channel, own_channel[first[place]]))
        keys = components(junction.size, links)
        if len(np.unique(keys)) == len(np.unique(heads)):
            continue
        names = frozenset(each.target for each in values)
        found.append(Grouped(junction.name, names, *_ranks(graph, junction.name, heads, keys)))
    return found


def single(graph: Structure, edge: Edge, grouped: list[Grouped]) -> np.ndarray:
    """Return the pairs of an edge without those of keys and values that several queries share."""
    source, target = graph.parts[edge.source], graph.parts[edge.target]
    pairs = edge.pairs_of(source.out_size, target.in_size)
    for each in grouped:
        if edge.target == each.product or edge.source in each.values:
            times = np.bincount(pairs[:, 0], minlength=source.out_size)
            return pairs[times[pairs[:, 0]] == 1]
    return pairs


def shared_channels(graph: Structure, grouped: list[Grouped]) -> dict[str, np.ndarray]:
    """Return the channels of keys and values that several queries share, by what gives them."""
    found: dict[str, np.ndarray] = {}
    for edge in graph.edges:
        if IDENTITY in (edge.source, edge.target):
            continue
        if any(edge.target == each.product or edge.source in each.values for each in grouped):
            source = graph.parts[edge.source].out_size
            pairs = edge.pairs_of(source, graph.parts[edge.target].in_size)
            several = np.flatnonzero(np.bincount(pairs[:, 0], minlength=source) > 1)
            found[edge.source] = np.union1d(found.get(edge.source, several), several)
    return {name: channels for name, channels in found.items() if len(channels)}


def reaches(graph: Structure, each: Grouped) -> list[Shared]:
    """Return which inputs of layers the queries bring values to."""
    return [asked for asked in graph.asked if asked.source == each.product]


def _ranks(
    graph: Structure, product: str, heads: np.ndarray, keys: np.ndarray
) -> tuple[np.ndarray, str]:
    """Return which of its key's queries each channel belongs to, and why that is of no use."""
    ranks, counts = np.zeros(len(heads), int), set()
    for key in np.unique(keys):
        own, place = np.unique(heads[keys == key], return_inverse=True)
        ranks[keys == key] = place
        counts.add(len(own))
    if len(counts) > 1:
        return ranks, f"keys have different numbers of queries, {sorted(counts)}"
    if not any(asked.source == product for asked in graph.asked):
        return ranks, "which inputs a single query brings values to is not known"
    return ranks, ""

"""Masks whose kept weights lie on a path from the network's input to its output.

A pass selects among candidates, at first all weights. What the selection leaves without a path on a
side is dropped from the candidates, unless fewer than are to stay would be left, and the pass is
repeated until nothing is wasted. Where that comes to a stop before, candidates are thinned out by
degrees: a small part of them goes at a time, and with it what has lost its path by that. What is
wasted even then makes room for weights between neurons that are alive, which lie on a path as they
are.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding

from lap_jax.batching import as_numpy, for_each, is_traced, on_host, turned
from lap_jax.graph.layers import Layer
from lap_jax.meshes import as_laid_out, everywhere, sharding_of
from lap_jax.network import NOTHING, Before, Flows, Masks, Network, tied_layers, with_tied
from lap_jax.scoring.kernels import Layout, as_read, layout_of
from lap_jax.scoring.liveness import (
    Alive,
    alive,
    count,
    effective,
    lead_through,
    over_window,
)
from lap_jax.scoring.scores import Sides, along_kernel
from lap_jax.selection.scope import Scope
from lap_jax.selection.scopes import least_left, units, whole_units

DEGREES = 40
"""In how many steps candidates are thinned out, by less and less."""
_ROUNDS = 4 * DEGREES  # of passes in all: the loop ends by itself before

Cover = Callable[[Masks], Masks]
"""``candidates -> masks``: of each neuron the best weight into it, and the best out of it."""

Pass = Callable[[Masks, Any, Before], tuple[Masks, Flows | None]]
"""``(candidates, how many units are to stay by layer, the pass before) -> masks`` and the norms
that `Before` takes."""


class _State(NamedTuple):
    """What goes from one pass to the next.

    Attributes:
      candidates: weights that may be kept.
      best, wasted: the masks with the fewest kept weights without a path, and how many these are.
      before: what the next pass need not make again; nothing under a trace.
      roomy: the last candidates of which every layer had enough with a path, and none without.
      degree: how far candidates are thinned out; 0: they are not.
      rounds: passes made.
      done: whether no further pass helps.
    """

    candidates: Masks
    best: Masks
    wasted: jax.Array
    before: Before
    roomy: Masks
    degree: jax.Array
    rounds: jax.Array
    done: jax.Array


def effective_pass(
    network: Network, scope: Scope, one_pass: Pass, best_of_neurons: Cover, start: Masks, kept: Any,
    warns: bool = False,
) -> Masks:  # fmt: skip
    """Return masks of which as many weights as can be are effective; the counts are exact.

    Args:
      network, scope: what to prune, and what competes.
      one_pass: prunes all layers once.
      best_of_neurons: tells weights without which a neuron would lose its path.
      start: by layer, the weights that take part.
      kept: how many units are to stay, by prunable layer (global: one); may be traced.
      warns: warn of weights without a path, where values can be seen.
    """
    traced = is_traced((network.kernels, kept, start))
    table = _by_degrees(network, scope, kept)
    number = jnp.int32
    keeps = not traced and scope.compare == "layer"

    def again(state: _State) -> _State:
        ends = (state.degree == 0) | (state.degree == DEGREES)
        found, flows = one_pass(state.candidates, table[state.degree], state.before)
        known = {name: own for name, own in state.before.whole.items() if found[name] is own}
        masks = {name: found[name] & state.candidates[name] for name in found} | known
        numbers = _numbers(network, masks, {name: state.before.numbers[name] for name in known})
        live = _alive(network, masks, numbers)
        losses = _losses(network, masks, numbers, live)
        wasted = jnp.sum(losses)
        if not traced and bool(ends & (wasted == 0)):
            rounds = state.rounds + 1
            return state._replace(best=masks, wasted=wasted, rounds=rounds, done=jnp.bool_(True))
        base = _either(traced, ends, state.candidates, masks)
        candidates, changed, enough = _narrowed(network, scope, base, live, kept)
        better = ends & (wasted < state.wasted)
        stuck = ends & ~changed
        restart = stuck & (state.degree == 0) & (wasted > 0)
        same = keeps and bool(state.degree == 0) and not restart
        before = NOTHING
        if same:
            whole = _whole(network, masks, losses)
            before = Before(state.candidates, whole, flows or {}, numbers)
        return _State(
            _either(traced, restart, start, candidates),
            _either(traced, better, masks, state.best),
            jnp.where(better, wasted, state.wasted),
            before,
            _either(traced, enough, candidates, state.roomy),
            jnp.where(restart, number(1), jnp.where(ends, state.degree, state.degree + 1)),
            state.rounds + 1,
            ends & (wasted == 0) | stuck & ~restart,
        )

    first = _State(
        start, start, number(np.iinfo(np.int32).max), NOTHING, start, number(0), number(0),
        jnp.bool_(False),
    )  # fmt: skip
    found = turned(lambda state: ~state.done & (state.rounds < _ROUNDS), again, first, traced)
    if scope.group is not None or scope.unit != (1, 1):
        return found.best  # the parts of a unit have paths or not each by itself

    def mended() -> Masks:
        masks = _mended(network, scope, one_pass, start, found.best, kept)
        return _if(traced, _lost(network, masks) > 0, lambda: covered(masks), lambda: masks)

    def covered(masks: Masks) -> Masks:
        other = _covered(network, scope, one_pass, best_of_neurons, found.roomy, masks, kept)
        return _either(traced, _lost(network, other) < _lost(network, masks), other, masks)

    masks = _if(traced, found.wasted > 0, mended, lambda: found.best)
    if warns and not traced and found.wasted > 0:
        _warn(int(_lost(network, masks)))
    return masks


def _warn(lost: int) -> None:
    if lost:
        warnings.warn(
            f"{lost:,} of the kept weights lie on no path from input to output: with so many in "
            "each layer no form was found in which all do; summarize(masks, graph) says in which "
            "layers",
            stacklevel=2,
        )


def _lost(network: Network, masks: Masks) -> jax.Array:
    numbers = _numbers(network, masks, {})
    return jnp.sum(_losses(network, masks, numbers, _alive(network, masks, numbers)))


def _whole(network: Network, masks: Masks, losses: jax.Array) -> Masks:
    """Return the masks of the layers that have lost nothing."""
    return {
        layer.name: masks[layer.name]
        for layer, lost in zip(network.graph.prunable, np.asarray(losses), strict=True) if not lost
    }  # fmt: skip


def _if(
    traced: bool, choice: jax.Array, one: Callable[[], Masks], other: Callable[[], Masks]
) -> Masks:
    if traced:
        return lax.cond(choice, one, other)
    return one() if bool(choice) else other()


def _covered(
    network: Network, scope: Scope, one_pass: Pass, best_of_neurons: Cover, candidates: Masks,
    masks: Masks, kept: Any,
) -> Masks:  # fmt: skip
    """Return masks by which every neuron that candidates lead through keeps its best weights.

    Args:
      network, scope, one_pass, best_of_neurons, kept: as in `effective_pass`.
      candidates: all of them on a path.
      masks: of layers in which these weights are more than may stay.
    """
    names = [layer.name for layer in network.graph.prunable]
    cover = best_of_neurons(candidates)
    rest = for_each(_without, {name: (None, (candidates[name], cover[name])) for name in names})
    held, free = (
        jnp.stack(list(for_each(_count, {name: (None, (of[name],)) for name in names}).values()))
        for of in (cover, rest)
    )
    if scope.compare == "global":
        held, free = jnp.sum(held, keepdims=True), jnp.sum(free, keepdims=True)
    kept = jnp.asarray(kept)
    enough = jnp.broadcast_to((held <= kept) & (held + free >= kept), (len(names),))
    fewer = jnp.where(kept > held, kept - held, 0)
    found = one_pass(with_tied(network, candidates | rest), fewer, NOTHING)[0]
    settled = for_each(_filled, {
        name: (sharding_of(masks[name]), (masks[name], cover[name], found[name] & rest[name],
                                          enough[place]))
        for place, name in enumerate(names)
    })  # fmt: skip
    return with_tied(network, masks | settled)


def _mended(
    network: Network, scope: Scope, one_pass: Pass, start: Masks, masks: Masks, kept: Any
) -> Masks:
    """Return masks with weights between living neurons in the place of those without a path.

    Where there are enough of them: a layer with fewer keeps its masks, and so its count.
    """
    names = [layer.name for layer in network.graph.prunable]
    every = for_each(_effective, _reads(network, masks, _alive(network, masks)))
    # Paths over what goes lead nowhere: alive is what the effective weights alone lead to.
    reads = _reads(network, masks, _alive(network, with_tied(network, masks | every)))
    own = {name: every[name] for name in names}
    room = for_each(_room, {
        name: (reads[name][0], (start[name], reads[name][1][1], own[name])) for name in names
    })  # fmt: skip
    held = jnp.stack(
        list(for_each(_count, {name: (None, (own[name],)) for name in names}).values())
    )
    free = jnp.stack(
        list(for_each(_count, {name: (None, (room[name],)) for name in names}).values())
    )
    if scope.compare == "global":
        held, free = jnp.sum(held, keepdims=True), jnp.sum(free, keepdims=True)
    kept = jnp.asarray(kept)
    enough = jnp.broadcast_to(held + free >= kept, (len(names),))
    fewer = jnp.where(kept > held, kept - held, 0)
    found = one_pass(with_tied(network, masks | room), fewer, NOTHING)[0]
    settled = for_each(_filled, {
        name: (reads[name][0][1], (masks[name], own[name], found[name] & room[name], enough[place]))
        for place, name in enumerate(names)
    })  # fmt: skip
    return with_tied(network, masks | settled)


def _by_degrees(network: Network, scope: Scope, kept: Any) -> jax.Array:
    """Return how many units stay at each degree, ``[1 + DEGREES, layers]``; at first the last."""
    sizes = [units(scope, layer.name, layer.shape) for layer in network.graph.prunable]
    whole = jnp.asarray([sum(sizes)] if scope.compare == "global" else sizes, jnp.float32)
    kept = jnp.asarray(kept)
    share = jnp.maximum(kept, 1) / whole
    steps = 1 - (1 - jnp.arange(1, DEGREES)[:, None] / DEGREES) ** 2
    between = jnp.ceil(whole * share**steps).astype(kept.dtype)
    return jnp.concatenate([kept[None], jnp.maximum(between, kept), kept[None]])


def _either(traced: bool, choice: jax.Array, one: Masks, other: Masks) -> Masks:
    if not traced:
        return one if bool(choice) else other
    return {name: jnp.where(choice, one[name], other[name]) for name in one}


def _numbers(network: Network, masks: Masks, known: Masks) -> Masks:
    """Return how many kept weights there are between each two neurons, ``[in / groups, out]``.

    A mask itself where there is no window; and what is known as it is.
    """
    left = {layer.name: layer for layer in network.graph.layers if layer.name not in known}
    return known | {name: masks[name] for name in left} | for_each(_number, {
        name: (sharding_of(masks[name], len(layer.shape) - 2), (masks[name],))
        for name, layer in left.items() if layer.is_conv
    })  # fmt: skip


def _alive(network: Network, masks: Masks, numbers: Masks | None = None) -> Alive:
    own = _numbers(network, masks, {}) if numbers is None else numbers

    traced = is_traced(masks)

    def lead(name: str, channels: Any, forward: bool) -> Any:
        layout, held = layout_of(network.graph[name]), own[name]
        if not traced and on_host(held):
            return lead_through(layout, as_numpy(held) != 0, np.asarray(channels), forward)
        how = (layout, everywhere(sharding_of(masks[name])), forward)
        return for_each(_lead, {name: (how, (held, channels))})[name]

    return alive(network.graph, lead, traced)


def _narrowed(
    network: Network, scope: Scope, candidates: Masks, live: Alive, kept: Any
) -> tuple[Masks, jax.Array, jax.Array]:
    """Return the candidates without those that have no path, where enough of them are left.

    Returns:
      The candidates, whether they are others than before, and whether there were enough of all.
    """
    reads = _reads(network, candidates, live)
    calls = {
        layer.name: ((scope, *reads[layer.name][0]), reads[layer.name][1])
        for layer in network.graph.prunable
    }
    left = for_each(_left, calls)
    counts, goes = (jnp.stack([left[name][place] for name in calls]) for place in range(2))
    if scope.compare == "global":
        counts = jnp.sum(counts, keepdims=True)
    enough = jnp.broadcast_to(counts >= jnp.asarray(kept), (len(calls),))
    changed = enough & goes
    some = calls
    if not is_traced(changed):
        told = np.asarray(changed)
        some = {name: call for (name, call), own in zip(calls.items(), told, strict=True) if own}
    places = {name: place for place, name in enumerate(calls)}
    settled = for_each(_dropped, {
        name: (how, (*operands, enough[places[name]])) for name, (how, operands) in some.items()
    })  # fmt: skip
    return with_tied(network, candidates | settled), changed.any(), enough.all()


def _losses(network: Network, masks: Masks, numbers: Masks, live: Alive) -> jax.Array:
    """Return how many kept weights of each layer that is pruned have no path."""
    reads = _reads(network, masks, live)
    calls: dict[str, Any] = {}
    for layer in network.graph.prunable:
        how, (mask, sides) = reads[layer.name]
        # Weights between two neurons share their fate, but where they are read another way too.
        calls[layer.name] = how, (mask if len(sides) > 1 else numbers[layer.name], sides)
    return jnp.stack(list(for_each(_count_wasted, calls).values()))


_How = tuple[tuple[Layout, ...], NamedSharding | None]
_Reads = tuple[_How, tuple[jax.Array, tuple[tuple[jax.Array, jax.Array], ...]]]


def _reads(network: Network, masks: Masks, live: Alive) -> dict[str, _Reads]:
    """Return, by layer that is not tied to another, its mask and both sides of every reading."""
    tied = tied_layers(network.graph)

    def reads(layer: Layer) -> _Reads:
        every = (layer, *tied.get(layer.name, ()))
        sides = tuple((live.reached[each.name], live.read[each.name]) for each in every)
        how = (tuple(map(layout_of, every)), sharding_of(masks[layer.name]))
        return how, (masks[layer.name], sides)

    return {layer.name: reads(layer) for layer in network.graph.layers if not layer.tied_to}


# ---------------------------------------------------------------- programs of one layer


def _lead(
    how: tuple[Layout, NamedSharding | None, bool], numbers: jax.Array, channels: jax.Array
) -> jax.Array:
    layout, sharding, forward = how
    return as_laid_out(lead_through(layout, numbers != 0, channels, forward), sharding)


def _number(sharding: NamedSharding | None, mask: jax.Array) -> jax.Array:
    """Return how many weights are kept between each two neurons, ``[in / groups, out]``."""
    window = math.prod(mask.shape[:-2])
    small = jnp.uint8 if window < 256 else jnp.uint32
    return as_laid_out(over_window(operator.add, mask.astype(small)), sharding)


def _room(how: _How, mask: jax.Array, sides: Any, own: jax.Array) -> jax.Array:
    """Return the weights between living neurons that are not among those kept already."""
    return as_laid_out(_effective(how, mask, sides) & ~own, how[1])


def _filled(
    sharding: NamedSharding | None, mask: jax.Array, own: jax.Array, new: jax.Array,
    enough: jax.Array,
) -> jax.Array:  # fmt: skip
    return as_laid_out(jnp.where(enough, own | new, mask), sharding)


def _without(_: None, mask: jax.Array, other: jax.Array) -> jax.Array:
    return mask & ~other


def _count(_: None, mask: jax.Array) -> jax.Array:
    return count(mask)


def _effective(how: _How, mask: jax.Array, sides: Any) -> jax.Array:
    """Return the kept weights that are effective in one of the ways in which they are read."""
    (first, *others), sharding = how
    found = effective(first, mask, *sides[0])
    for layout, own in zip(others, sides[1:], strict=True):
        turned_mask = effective(layout, as_read(first, layout, mask), *own)
        found |= as_read(layout, first, turned_mask)
    return as_laid_out(found, sharding)


def _left(how: tuple[Any, ...], mask: jax.Array, sides: Any) -> tuple[jax.Array, jax.Array]:
    """Return how many candidates have a path, in units, and whether any weight has none."""
    useful = _useful(how, mask, sides)
    number = count(useful)
    # Single weights of a layer are counted where it is quick.
    alone = how[0].unit == (1, 1) and how[0].group is None
    left = number if alone else least_left(how[0], useful).astype(jnp.uint32)
    return left, number != count(mask)


def _useful(how: tuple[Any, ...], mask: jax.Array, sides: Any) -> jax.Array:
    """Return the candidates without those that have no path; units stay whole."""
    scope, *rest = how
    return mask & whole_units(scope, _effective(tuple(rest), mask, sides))


def _dropped(how: tuple[Any, ...], mask: jax.Array, sides: Any, enough: jax.Array) -> jax.Array:
    return as_laid_out(jnp.where(enough, _useful(how, mask, sides), mask), how[2])


def _count_wasted(how: _How, kept: jax.Array, sides: Any) -> jax.Array:
    """Count weights without a path in a mask, or in numbers of weights that are read in one way."""
    if len(sides) > 1:
        return count(kept & ~_effective(how, kept, sides)).astype(jnp.int32)
    own: Any = along_kernel(how[0][0], Sides(*sides[0]))
    return jnp.sum(jnp.where(own.input & own.output, 0, kept.astype(jnp.int32)), dtype=jnp.int32)

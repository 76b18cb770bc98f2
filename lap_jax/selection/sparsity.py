"""How much to remove where. Sparsity is always the fraction of weights removed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax

from lap_jax.errors import PruningError
from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import matching
from lap_jax.integers import whole_number

Sparsity = float | Sequence[float] | Mapping[str, float]


def paper_sparsity(
    graph: Graph, tau: float, p: float = 0.85, q: float = 0.8, unpruned: Sequence[str] = ()
) -> dict[str, float]:
    """Return the sparsity of each layer by the rule of the paper's Appendix C.

    ``1 - p**tau`` for convolutions, ``1 - q**tau`` for dense layers, ``1 - ((1 + q) / 2)**tau`` for
    the last layer, 0 for the layers in ``unpruned``.

    Args:
      graph: the layers, from `chain`.
      tau: the pruning level, not negative; whole numbers in the paper.
      p: fraction of a convolution's weights kept per level. Conv-6, VGG and ResNet-18: 0.85; the
        paper writes 0 for the FCN, which has none.
      q: fraction of a dense layer's weights kept per level. FCN: 0.5; the others: 0.8.
      unpruned: names or patterns of layers left whole; the paper leaves ResNet-18's first
        convolution.

    Returns:
      ``{layer name: sparsity}``.

    Raises:
      PruningError: if tau is negative, p or q is outside [0, 1], or ``unpruned`` names no layer.
    """
    if tau < 0:
        raise PruningError(f"tau is {tau}: expected a level of 0 or more")
    for name, value in (("p", p), ("q", q)):
        if not 0 <= value <= 1:
            raise PruningError(f"{name} is {value}: expected a kept fraction in [0, 1]")
    whole = {name for pattern in unpruned for name in _matches(pattern, graph.names)}
    kept = {layer.name: p if layer.is_conv else q for layer in graph.layers}
    kept[graph.layers[-1].name] = (1 + q) / 2
    return {name: 0.0 if name in whole else 1 - kept[name] ** tau for name in graph.names}


def cubic_schedule(
    final: float | Mapping[str, float],
    begin: int,
    end: int,
    every: int,
    initial: float = 0.0,
    power: float = 3,
) -> tuple[tuple[int, Sparsity], ...]:
    """Return the schedule of Zhu & Gupta (2017), for `prune_in_training`.

    ``s_t = final + (initial - final) * (1 - (t - begin) / (end - begin))**power`` at each step
    ``t`` from ``begin`` to ``end``, ``every`` so many.

    Args:
      final: sparsity at ``end``: a number, or one per layer or pattern.
      begin, end, every: steps, whole numbers; the last pruning is at ``end``.
      initial: sparsity at ``begin``.
      power: 3, cubic; 1, evenly; the larger, the more is removed early.

    Returns:
      ``((step, sparsity), ...)``.

    Raises:
      PruningError: if a step is no whole number, ``every`` or ``power`` is not positive, or ``end``
        is not after ``begin``.

    Example:
      >>> [(step, round(level, 3)) for step, level in cubic_schedule(0.8, 0, 100, 50)]
      [(0, 0.0), (50, 0.7), (100, 0.8)]
    """
    begin, end = whole_number("begin", begin), whole_number("end", end)
    every = whole_number("every", every)
    if every < 1:
        raise PruningError(f"every is {every}: expected 1 step or more")
    if not 0 < power < math.inf:
        raise PruningError(f"power is {power!r}: expected a finite number above 0; 3 is cubic")
    if not 0 <= begin < end:
        raise PruningError(f"begin is {begin} and end {end}: expected 0 <= begin < end")

    def level(goal: float, step: int) -> float:
        return goal + (initial - goal) * (1 - (step - begin) / (end - begin)) ** power

    steps = [*range(begin, end, every), end]
    return tuple((step, _at(final, partial(level, step=step))) for step in steps)


def iterative_schedule(
    final: float | Mapping[str, float], rounds: int, every: int, begin: int = 0
) -> tuple[tuple[int, Sparsity], ...]:
    """Return the schedule of iterative pruning (Han et al. 2015), for `prune_in_training`.

    Each round removes the same share of what is left: ``1 - (1 - final)**(r / rounds)`` after
    round ``r``.

    Args:
      final: sparsity after the last round: a number, or one per layer or pattern.
      rounds: number of prunings.
      every: steps of training between two of them.
      begin: step of the first.

    Returns:
      ``((step, sparsity), ...)``.

    Raises:
      PruningError: if a number of rounds or steps is no whole number; if there is no round, or no
        step between two, or ``begin`` is negative.

    Example:
      >>> [(step, round(level, 3)) for step, level in iterative_schedule(0.75, 2, 100)]
      [(0, 0.5), (100, 0.75)]
    """
    rounds, every = whole_number("rounds", rounds), whole_number("every", every)
    begin = whole_number("begin", begin)
    if rounds < 1 or every < 1 or begin < 0:
        raise PruningError(
            f"rounds is {rounds}, every {every}, begin {begin}: expected at least 1, 1 and 0"
        )

    def level(goal: float, done: int) -> float:
        return goal if done == rounds else 1 - (1 - goal) ** (done / rounds)

    return tuple(
        (begin + (done - 1) * every, _at(final, partial(level, done=done)))
        for done in range(1, rounds + 1)
    )


def _at(final: float | Mapping[str, float], level: Callable[[float], float]) -> Sparsity:
    if isinstance(final, Mapping):
        return {name: level(goal) for name, goal in final.items()}
    return level(final)


def sparsity_per_layer(
    sparsity: Sparsity, names: Sequence[str], known: Sequence[str] = ()
) -> tuple[float, ...]:
    """Return one sparsity per layer, in the order of ``names``.

    Args:
      sparsity: a number for all, a sequence with one per layer, or a mapping from layer names or
        ``fnmatch`` patterns; a name goes before a pattern, an earlier pattern before a later one.
      names: the layers.
      known: names of layers that are not pruned, such as pinned ones, which keys may name too.

    Raises:
      PruningError: if a sparsity is outside [0, 1) or traced, a key matches no layer, a layer is
        left without one, or the sequence has another length.
    """
    if isinstance(sparsity, Mapping):
        matches = {key: _matches(key, (*names, *known)) for key in sparsity}
        values = []
        for name in names:
            exact = [key for key in sparsity if key.removesuffix("/kernel") == name]
            keys = exact + [key for key, matched in matches.items() if name in matched]
            if not keys:
                raise PruningError(
                    f"layer {name!r} is given no sparsity: add it, or a pattern such as '*'"
                )
            values.append(_checked(sparsity[keys[0]], name))
        return tuple(values)
    if getattr(sparsity, "ndim", 0) == 0 and not isinstance(sparsity, Sequence):
        return tuple(_checked(sparsity, name) for name in names)
    listed = list(sparsity)  # type: ignore[arg-type]
    if len(listed) != len(names):
        raise PruningError(
            f"sparsity lists {len(listed)} values for {len(names)} layers: give one per layer "
            f"({', '.join(map(repr, names))})"
        )
    return tuple(_checked(value, name) for value, name in zip(listed, names, strict=True))


def kept_count(size: int, sparsity: float) -> int:
    """Return how many of ``size`` weights stay: ``round((1 - sparsity) * size)``, half to even."""
    return round((1 - sparsity) * size)


def _checked(value: object, name: str) -> float:
    if isinstance(value, jax.core.Tracer):
        raise PruningError(
            f"the sparsity of layer {name!r} is traced: the number of kept weights must be exact, "
            "so close over a plain number, or mark the argument static in jax.jit"
        )
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise PruningError(
            f"the sparsity of layer {name!r} is {value!r}: expected a number"
        ) from None
    if math.isnan(number) or not 0 <= number < 1:
        raise PruningError(
            f"the sparsity of layer {name!r} is {number:g}: expected the fraction removed, "
            "in [0, 1)"
        )
    return number


def _matches(key: str, names: Sequence[str]) -> list[str]:
    try:
        return matching(key, names)
    except PruningError as error:
        raise PruningError(f"sparsity: {error}") from None

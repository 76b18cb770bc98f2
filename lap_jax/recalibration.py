"""Statistics of batch norms set anew: what pruning changed of them, without training."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.paths import leaves_by_path, map_by_path

Update: TypeAlias = Callable[[Any, tuple[Any, ...]], Any]
"""From running statistics and inputs to the next ones."""
Whole: TypeAlias = Callable[[Any], Any]
"""Puts statistics back among the variables."""


def recalibrate(model: Any, variables: Any, batches: Iterable[Any] = (), **options: Any) -> Any:
    """Set the running statistics of batch norms to those of some batches.

    Pruning changes what reaches a norm, and the running statistics are those of the dense network:
    before any retraining a pruned convolutional network is often at chance for this reason alone.
    The mean becomes the mean over batches, the variance the mean of the batches' variances and the
    variance of their means, as over all examples at once where batches are equally large. Nothing
    else changes.

    A model only says what it adds to its running statistics, ``momentum * old + (1 - momentum) *
    new``: it is called from zeros and from ones, which tells the momentum, and then from zeros.

    Args:
      model: a Linen module or its ``apply``, or a function that is called like that; an NNX module
        holds its variables, so that the batches come in their place.
      variables: with ``batch_stats``; of an NNX module: left out.
      batches: inputs, each an array or a tuple of arguments; a hundred examples or more in all.
      **options: that make the model use the statistics of the batch: ``train=True`` or
        ``use_running_average=False``, and what else it takes; not ``mutable``.

    Returns:
      Variables of the same structure with new statistics; of an NNX module its state.

    Raises:
      PruningError: if there are no batches or no statistics, or the model leaves them as they are.

    Example:
      >>> import flax.linen as nn
      >>> norm = nn.BatchNorm(use_running_average=False)
      >>> x = jnp.array([[1.0], [3.0]])
      >>> variables = norm.init(jax.random.key(0), x)
      >>> stats = recalibrate(norm, variables, [x])["batch_stats"]
      >>> float(stats["mean"][0]), float(stats["var"][0])
      (2.0, 1.0)
    """
    held = _is_nnx(model)
    stats, update, whole = _of_nnx(model, options) if held else _of_linen(model, variables, options)
    if not jax.tree.leaves(stats):
        raise PruningError(
            "there are no statistics of batch norms: expected Linen's whole variables, "
            "{'params': ..., 'batch_stats': ...}, or an NNX module with a BatchNorm"
        )
    return whole(_over_batches(jax.jit(update), stats, variables if held else batches))


def _of_linen(model: Any, variables: Any, options: dict[str, Any]) -> tuple[Any, Update, Whole]:
    if not isinstance(variables, Mapping):
        raise PruningError(
            f"the variables are {type(variables).__name__}: expected {{'params': ..., "
            "'batch_stats': ...}; of a TrainState pass both in one dictionary"
        )
    apply = getattr(model, "apply", model)

    def update(stats: Any, inputs: tuple[Any, ...]) -> Any:
        own = {**variables, "batch_stats": stats}
        return apply(own, *inputs, mutable=["batch_stats"], **options)[1]["batch_stats"]

    stats = variables.get("batch_stats", {})
    return stats, update, lambda new: {**variables, "batch_stats": new}


def _of_nnx(model: Any, options: dict[str, Any]) -> tuple[Any, Update, Whole]:
    nnx = sys.modules["flax.nnx"]
    graphdef, stats, rest = nnx.split(model, nnx.BatchStat, ...)

    def update(stats: Any, inputs: tuple[Any, ...]) -> Any:
        own = nnx.merge(graphdef, stats, rest)
        own.train()
        own(*inputs, **options)
        return nnx.state(own, nnx.BatchStat)

    return stats, update, lambda new: nnx.merge_state(rest, new)


def _is_nnx(model: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(model, nnx.Module)


def _over_batches(update: Update, stats: Any, batches: Iterable[Any]) -> Any:
    """Return the statistics over all batches."""
    total: dict[str, Any] = {}
    squares: dict[str, Any] = {}
    takes: dict[str, np.ndarray] = {}  # of each statistic, the weight of a new one
    zeros = jax.tree.map(jnp.zeros_like, stats)
    count = 0
    for batch in batches:
        count += 1
        inputs = batch if isinstance(batch, tuple) else (batch,)
        found = leaves_by_path(update(zeros, inputs))
        if not takes:
            ones = leaves_by_path(update(jax.tree.map(jnp.ones_like, stats), inputs))
            # A momentum is a short number, which float32 holds to seven digits, and one less it to
            # five: rounded, the difference is exact.
            keeps = {path: np.asarray(ones[path] - leaf, float) for path, leaf in found.items()}
            takes = {path: 1 - each.round(6) for path, each in keeps.items()}
            if not any(each.any() for each in takes.values()):
                raise PruningError(
                    "the model leaves its statistics as they are: pass what makes it use those of "
                    "the batch, such as train=True or use_running_average=False"
                )
        for path, leaf in found.items():
            new = leaf / jnp.asarray(np.where(takes[path], takes[path], 1), leaf.dtype)
            total[path] = total.get(path, 0) + new
            squares[path] = squares.get(path, 0) + new**2
    if not count:
        raise PruningError("there are no batches: pass an iterable of inputs")

    def statistic(path: str, leaf: Any) -> Any:
        found = total[path] / count
        means = f"{path.removesuffix('var')}mean"
        if path.rpartition("/")[2] == "var" and means in total:
            found = found + squares[means] / count - (total[means] / count) ** 2
        return found.astype(leaf.dtype)

    return map_by_path(statistic, stats)

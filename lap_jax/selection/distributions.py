"""How much of a whole network's sparsity goes to which layer."""

from __future__ import annotations

from collections.abc import Mapping

from lap_jax.errors import PruningError
from lap_jax.graph.graph import Graph
from lap_jax.integers import whole_number
from lap_jax.selection.sparsity import kept_count, sparsity_per_layer


def erk_sparsity(graph: Graph, sparsity: float) -> dict[str, float]:
    """Return the sparsity of each layer by the rule of Erdős, Rényi and kernel (ERK).

    A layer keeps the fraction ``min(1, e * (sum of its kernel's axes) / (product of them))``, with
    one number e for all layers, by which the network has the sparsity that is asked for (Mocanu et
    al. 2018 for dense layers; Evci et al. 2020, Section 3, for kernels of convolutions). Small
    layers stay whole, large ones carry the pruning; each neuron keeps about as many weights as any
    other.

    Args:
      graph: the layers, from `trace` or `chain`; pinned ones are left out.
      sparsity: fraction of the weights of all other layers together that is removed, in [0, 1).

    Returns:
      ``{layer name: sparsity}``, for `lookahead_masks`, `cubic_schedule` and others.

    Raises:
      PruningError: if the sparsity is not in [0, 1).

    Example:
      >>> from lap_jax import chain
      >>> import jax.numpy as jnp
      >>> params = {"a": {"kernel": jnp.ones((30, 60))}, "b": {"kernel": jnp.ones((60, 12))}}
      >>> found = erk_sparsity(chain(params, ["a", "b"]), 0.9)
      >>> {name: round(level, 4) for name, level in found.items()}
      {'a': 0.9222, 'b': 0.8444}
    """
    sizes, budget = _sizes(graph, sparsity)
    rates = {layer.name: sum(layer.shape) / layer.size for layer in graph.prunable}
    # From the layer that is filled first on: what is left of the budget goes to the others.
    order = sorted(rates, key=lambda name: -rates[name])
    kept = dict.fromkeys(sizes, 1.0)
    for place, name in enumerate(order):
        rest = order[place:]
        common = budget / sum(rates[each] * sizes[each] for each in rest)
        if common * rates[name] < 1:
            kept |= {each: common * rates[each] for each in rest}
            break
        budget -= sizes[name]
    return {name: max(0.0, 1 - kept[name]) for name in sizes}


def ideal_gas_sparsity(graph: Graph, sparsity: float) -> dict[str, float]:
    """Return the sparsity of each layer by ideal gas quotas (Vysogorets & Kempe, JMLR 2023).

    A layer of n weights keeps the fraction ``1 / (1 + F * n)``, with one number F for all layers,
    by which the network has the sparsity that is asked for: layers are gas-filled cylinders of one
    volume, as high as they have weights, one on top of the other, and F presses on all of them.
    At a high sparsity all layers keep about as many weights; at a low one large layers give most.

    Args:
      graph, sparsity: as of `erk_sparsity`.

    Returns:
      ``{layer name: sparsity}``.

    Raises:
      PruningError: if the sparsity is not in [0, 1).

    Example:
      >>> from lap_jax import chain
      >>> import jax.numpy as jnp
      >>> params = {"a": {"kernel": jnp.ones((30, 60))}, "b": {"kernel": jnp.ones((60, 12))}}
      >>> found = ideal_gas_sparsity(chain(params, ["a", "b"]), 0.9)
      >>> {name: round(level, 4) for name, level in found.items()}
      {'a': 0.9263, 'b': 0.8342}
    """
    sizes, budget = _sizes(graph, sparsity)
    if budget == sum(sizes.values()):
        return dict.fromkeys(sizes, 0.0)

    def kept(force: float) -> float:
        return sum(size / (1 + force * size) for size in sizes.values())

    low, high = 0.0, 1.0
    while kept(high) > budget:
        high *= 2
    for _ in range(200):  # to the last bit: halves until no number lies between
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if kept(middle) > budget else (low, middle)
    return {name: 1 - 1 / (1 + high * size) for name, size in sizes.items()}


def sparsity_keeping(graph: Graph, counts: int | Mapping[str, int]) -> float | dict[str, float]:
    """Return the sparsity at which so many weights stay.

    Args:
      graph: the layers; pinned ones are left out.
      counts: of weights that stay: of all layers together, which `lookahead_masks` keeps to the
        weight with ``scope="global"``; or by name or pattern, of each layer that it names.

    Returns:
      One number, or ``{layer name: sparsity}``: masks of single weights then keep exactly as many.

    Raises:
      PruningError: if a count is no whole number, negative, zero or larger than what it is of, a
        key matches no layer, or a layer is given none.

    Example:
      >>> from lap_jax import chain
      >>> import jax.numpy as jnp
      >>> params = {"a": {"kernel": jnp.ones((4, 5))}, "b": {"kernel": jnp.ones((5, 2))}}
      >>> sparsity_keeping(chain(params, ["a", "b"]), {"a": 5, "*": 10})
      {'a': 0.75, 'b': 0.0}
    """
    sizes = {layer.name: layer.size for layer in graph.prunable}
    if not isinstance(counts, Mapping):
        total = sum(sizes.values())
        return _removed("the network", total, whole_number("counts", counts))
    given = {key: whole_number(f"the count of {key!r}", count) for key, count in counts.items()}
    # Keys are matched as those of a sparsity; places stand for counts, which are not below one.
    places = {key: place / len(given) for place, key in enumerate(given)}
    named = sparsity_per_layer(places, tuple(sizes), graph.names)
    keys = {place: key for key, place in places.items()}
    return {
        name: _removed(f"layer {name!r}", size, given[keys[place]])
        for (name, size), place in zip(sizes.items(), named, strict=True)
    }


def _removed(what: str, size: int, count: int) -> float:
    if not 0 < count <= size:
        raise PruningError(f"{what} is to keep {count:,} weights: expected 1 to all {size:,}")
    sparsity = 1 - count / size
    assert kept_count(size, sparsity) == count
    return sparsity


def _sizes(graph: Graph, sparsity: float) -> tuple[dict[str, int], float]:
    """Return how many weights each layer has, and how many stay of all."""
    sizes = {layer.name: layer.size for layer in graph.prunable}
    level = sparsity_per_layer(sparsity, ("all layers",))[0]
    return sizes, (1 - level) * sum(sizes.values())

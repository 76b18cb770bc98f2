"""The recipe: graph, score, sparsity, direction, order and steps -> masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lap_jax import scores
from lap_jax.chains import Layer, as_graph, norm_tensors
from lap_jax.errors import PruningError
from lap_jax.graphs import Graph, Norm, nearest
from lap_jax.paths import leaves_by_path, map_by_path
from lap_jax.selection import keep_largest
from lap_jax.sparsity import Sparsity, kept_count, sparsity_per_layer


class Method(NamedTuple):
    """A pruning method: any combination of four choices.

    Attributes:
      score: "magnitude", "random" or "lookahead".
      direction: where lookahead looks: "both", "forward" (the next layers only) or "backward".
      order: None scores every layer on its neighbours as they were; "forward" prunes the first
        layer first, each on the already pruned layers before it; "backward" the last layer first.
      steps: number of passes in which the sparsity grows evenly to its full value.
    """

    score: str = "lookahead"
    direction: str = "both"
    order: str | None = None
    steps: int = 1


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "MP": Method("magnitude"),
        "RP": Method("random"),
        "LFP": Method(direction="forward"),
        "LBP": Method(direction="backward"),
        "LAP": Method(),
        "LAP-forward": Method(order="forward"),
        "LAP-backward": Method(order="backward"),
        "LAP-forward-seq": Method(order="forward", steps=5),
        "LAP-backward-seq": Method(order="backward", steps=5),
    }
)
"""The nine methods of the paper, by its names (Sections 2.3 and 3.2)."""


def lookahead_masks(
    params: Any,
    chain: Graph | Sequence[str | Norm | Layer],
    sparsity: Sparsity,
    *,
    method: str | Method = "LAP",
    steps: int | None = None,
    batch_stats: Any | None = None,
    key: jax.Array | None = None,
) -> Any:
    """Return the masks of a pruned network (Algorithm 1 and the variants of Section 2.3).

    Pure; under `jax.jit` and `jax.vmap` too (sparsity must then be a plain number). One compilation
    serves the whole tree and every sparsity.

    Args:
      params: the parameters: a dict, FrozenDict, ``nnx.State`` or any pytree with named paths.
        Kernels are float16, bfloat16, float32 or float64; scores are float32 or wider.
      chain: what feeds what: a `Graph`, or a declaration for `lap_jax.chain`.
      sparsity: fraction removed, in [0, 1): a number, one per layer in a sequence, or a mapping
        from layer names or patterns (``{"Conv_*": 0.9, "*": 0.5}``).
      method: one of `METHODS` by name, or a `Method`.
      steps: number of sequential steps, in place of the method's own (1, or 5 for "-seq").
      batch_stats: running statistics of the batch norms in the chain.
      key: PRNG key, for random scores.

    Returns:
      A tree of the structure of ``params``: for the kernels in the chain a boolean array of the
      kernel's shape, True where the weight stays, with exactly ``round((1 - sparsity) * size)``
      True entries; for every other leaf a scalar True. Equal scores are told apart by position: the
      earlier in row-major order stays.

    Raises:
      PruningError: for a chain that does not fit the parameters (see `lap_jax.chain`); an unknown
        method; a bad sparsity; a missing key or missing ``batch_stats``; NaN or infinite weights.
        Under a trace values cannot be seen: there, a NaN score ranks highest, so that the weight
        stays where it shows; the counts remain exact.

    Example:
      >>> params = {name: {"kernel": jnp.ones((8, 8))} for name in ("Dense_0", "Dense_1")}
      >>> masks = lookahead_masks(params, ["Dense_0", "Dense_1"], 0.75)
      >>> int(masks["Dense_0"]["kernel"].sum())
      16
    """
    graph = as_graph(params, chain, batch_stats)
    method = _method(method, steps)
    levels = sparsity_per_layer(sparsity, graph.names)
    kept = np.array(
        [
            [
                kept_count(layer.size, level * (step / method.steps))
                for layer, level in zip(graph.layers, levels, strict=True)
            ]
            for step in range(1, method.steps + 1)
        ],
        np.uint32,
    )
    kernels, tensors = _inputs(graph, method, params, batch_stats, key)
    masks = _masks(graph, method, kernels, tensors, kept, key)
    by_path = {layer.path: masks[layer.name] for layer in graph.layers}
    return map_by_path(lambda path, _: by_path.get(path, jnp.bool_(True)), params)


def lookahead_scores(
    params: Any,
    chain: Graph | Sequence[str | Norm | Layer],
    *,
    method: str | Method = "LAP",
    batch_stats: Any | None = None,
    key: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Return the score of every weight in the chain, to select in a way of your own.

    ``|w| * a_prev[j] * a[k] * ||W_prev[j, :]||_F * ||W_next[:, k]||_F`` for "LAP" (Eq. 5 and 9).

    Args:
      params, chain, batch_stats, key: as in `lookahead_masks`.
      method: a method without order or steps: MP, RP, LFP, LBP, LAP, or such a `Method`.

    Returns:
      ``{layer name: scores}``, each of its kernel's shape, float32 (float64 for a float64 kernel).
      Comparable within a layer; across layers only up to the layers' own scales.

    Raises:
      PruningError: as `lookahead_masks`; also for a method with an order or steps, because its
        scores depend on what is pruned already.
    """
    graph = as_graph(params, chain, batch_stats)
    chosen = _method(method, None)
    if chosen.order is not None or chosen.steps > 1:
        raise PruningError(
            f"method {method!r} scores weights on what is pruned already: use lookahead_masks, or "
            "score masked parameters with 'LAP'"
        )
    kernels, tensors = _inputs(graph, chosen, params, batch_stats, key)
    return _scores(graph, chosen, kernels, tensors, key)


@partial(jax.jit, static_argnums=(0, 1))
def _masks(
    graph: Graph,
    method: Method,
    kernels: dict[str, jax.Array],
    tensors: dict[str, Any],
    kept: jax.Array,
    key: jax.Array | None,
) -> dict[str, jax.Array]:
    """Prune all layers; ``kept`` is [steps, layers]."""
    gains = _gains(graph, tensors)
    looks = method.score == "lookahead"
    backward = method.order == "backward"
    ordered = list(enumerate(graph.layers))[:: -1 if backward else 1]

    def prune(masks: dict[str, jax.Array] | None, counts: jax.Array) -> dict[str, jax.Array]:
        pruned = kernels if masks is None else _masked(kernels, masks)
        flows = _flows(graph, pruned) if looks else {}
        new = {}
        for index, layer in ordered:
            score = _score(graph, layer, method, pruned[layer.name], flows, gains, key, True)
            among = None if masks is None else masks[layer.name]
            new[layer.name] = keep_largest(score, counts[index], among)
            if looks and method.order is not None:
                kernel = jnp.where(new[layer.name], pruned[layer.name], 0)
                flows = {**flows, layer.name: scores.flow(layer, kernel)}
        return new

    masks = prune(None, kept[0])
    if method.steps == 1:
        return masks
    return lax.fori_loop(1, method.steps, lambda step, masks: prune(masks, kept[step]), masks)


@partial(jax.jit, static_argnums=(0, 1))
def _scores(
    graph: Graph,
    method: Method,
    kernels: dict[str, jax.Array],
    tensors: dict[str, Any],
    key: jax.Array | None,
) -> dict[str, jax.Array]:
    gains = _gains(graph, tensors)
    flows = _flows(graph, kernels) if method.score == "lookahead" else {}
    return {
        layer.name: _score(graph, layer, method, kernels[layer.name], flows, gains, key, False)
        for layer in graph.layers
    }


def _score(
    graph: Graph, layer: Any, method: Method, kernel: jax.Array, flows: scores.Flows,
    gains: Mapping[str, jax.Array], key: jax.Array | None, rescale: bool,
) -> jax.Array:  # fmt: skip
    if method.score == "magnitude":
        return scores.magnitude(kernel)
    if method.score == "random":
        assert key is not None
        return scores.random(layer, key)
    return scores.lookahead(graph, layer, kernel, flows, gains, method.direction, rescale)


def _flows(graph: Graph, kernels: Mapping[str, jax.Array]) -> scores.Flows:
    return {layer.name: scores.flow(layer, kernels[layer.name]) for layer in graph.layers}


def _gains(graph: Graph, tensors: Mapping[str, Any]) -> dict[str, jax.Array]:
    return {name: scores.gain(graph[name], parts) for name, parts in tensors.items()}


def _masked(
    kernels: Mapping[str, jax.Array], masks: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    return {name: jnp.where(masks[name], kernel, 0) for name, kernel in kernels.items()}


def _method(method: str | Method, steps: int | None) -> Method:
    """Look a method up by name, put in the number of steps and check every choice."""
    if isinstance(method, str):
        if method not in METHODS:
            hint = nearest(method, METHODS) or f"; there are: {', '.join(map(repr, METHODS))}"
            raise PruningError(f"unknown method {method!r}{hint}")
        method = METHODS[method]
    if steps is not None:
        method = method._replace(steps=steps)
    for field, allowed in (
        ("score", ("magnitude", "random", "lookahead")),
        ("direction", ("both", "forward", "backward")),
        ("order", (None, "forward", "backward")),
    ):
        if getattr(method, field) not in allowed:
            raise PruningError(f"{field} is {getattr(method, field)!r}: expected one of {allowed}")
    if not isinstance(method.steps, int) or method.steps < 1:
        raise PruningError(f"steps is {method.steps!r}: expected a whole number of 1 or more")
    return method


def _inputs(
    graph: Graph, method: Method, params: Any, batch_stats: Any | None, key: jax.Array | None
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """Collect the arrays that the method reads, and check their values where they can be seen."""
    if method.score == "random" and key is None:
        raise PruningError("random pruning needs a key: pass key=jax.random.key(seed)")
    leaves = leaves_by_path(params)
    kernels = {layer.name: leaves[layer.path] for layer in graph.layers}
    looks = method.score == "lookahead"
    tensors = norm_tensors(graph, params, batch_stats) if looks else {}
    _check_finite(graph, kernels, tensors)
    return kernels, tensors


def _check_finite(graph: Graph, kernels: dict[str, Any], tensors: dict[str, Any]) -> None:
    named = {f"layer {name!r}": (kernel, "weights") for name, kernel in kernels.items()}
    for name, parts in tensors.items():
        norm = graph[name].norm
        assert norm is not None
        for part, tensor in parts.items():
            named[f"{norm.path}/{part} after layer {name!r}"] = (tensor, "entries")
    visible = {
        name: tensor
        for name, (tensor, _) in named.items()
        if not isinstance(tensor, jax.core.Tracer)
    }
    if not visible:
        return
    counts = jax.device_get(_nonfinite(visible))
    for name in visible:
        if counts[name]:
            raise PruningError(
                f"{name} has {counts[name]} NaN or infinite {named[name][1]}: "
                "mend the training run, or prune a checkpoint from before they appeared"
            )


@jax.jit
def _nonfinite(tensors: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: jnp.sum(~jnp.isfinite(tensor)) for name, tensor in tensors.items()}

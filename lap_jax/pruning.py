"""The recipe: graph, score, sparsity, direction, order and steps -> masks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lap_jax.errors import PruningError
from lap_jax.graph.chain import Layer, as_graph, fits, norm_tensors
from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import Junction, Node, Norm, nearest
from lap_jax.graph.shortcuts import direct
from lap_jax.meshes import Layouts, laid_out, layouts, on_any_mesh
from lap_jax.paths import leaves_by_path, map_by_path
from lap_jax.scoring import lags, scores
from lap_jax.scoring.kernels import as_read, kernel_of, leaves_of
from lap_jax.scoring.norms import euclidean
from lap_jax.scoring.propagation import Flows, Measured, Reach
from lap_jax.selection.scopes import Contest, Scope, checked_scope, kept_units, select
from lap_jax.selection.sparsity import Sparsity, sparsity_per_layer
from lap_jax.selection.top_k import Scored


class Method(NamedTuple):
    """A pruning method: any combination of four choices.

    Attributes:
      score: "magnitude", "random" or "lookahead".
      direction: where lookahead looks: "both", "forward" (the next layers only) or "backward".
      order: None scores every layer on its neighbours as they were; "forward" prunes the first
        layer first, each on the already pruned layers before it; "backward" the last layer first.
      steps: number of passes in which the sparsity grows evenly to its full value.
      horizon: how many layers lookahead reaches ahead and back: 1 as in the paper, 0 for magnitude,
        "all" for the path score through the whole network.
      lags: score convolutions with the exact distortion of Eq. 4, which is not the product of norms
        of Eq. 5, but takes autocorrelations of the kernels before and after.
    """

    score: str = "lookahead"
    direction: str = "both"
    order: str | None = None
    steps: int = 1
    horizon: int | str = 1
    lags: bool = False


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
    scope: str | Scope = "layer",
    batch_stats: Any | None = None,
    key: jax.Array | None = None,
    masks: Any | None = None,
    measured: Mapping[str, Measured] | None = None,
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
      scope: what competes with what: "layer", "global", or a `Scope`, such as
        ``Scope(group=(2, 4))`` or ``Scope(unit="channel")``.
      batch_stats: running statistics of the batch norms in the chain.
      key: PRNG key, for random scores.
      masks: of an earlier pruning. What they removed stays removed, and counts as zero in the norms
        of the neighbours.
      measured: by layer, norms measured on data, from `lap_jax.measure`, in place of what the
        weights of the neighbours say.

    Returns:
      A tree of the structure of ``params``: for the kernels in the chain a boolean array of the
      kernel's shape and sharding, True where the weight stays, with exactly
      ``round((1 - sparsity) * size)`` True entries (of blocks, channels or groups: as many of
      those); for every other leaf a scalar True. Equal scores are told apart by position: the
      earlier in row-major order stays.

    Raises:
      PruningError: for a chain that does not fit the parameters (see `lap_jax.chain`); an unknown
        method or scope; a bad sparsity, or one that keeps more than ``masks`` left; a missing key
        or missing ``batch_stats``; NaN or infinite weights. Under a trace values cannot be seen:
        there, a NaN score ranks highest, so that the weight stays where it shows; the counts remain
        exact.

    Example:
      >>> params = {name: {"kernel": jnp.ones((8, 8))} for name in ("Dense_0", "Dense_1")}
      >>> masks = lookahead_masks(params, ["Dense_0", "Dense_1"], 0.75)
      >>> int(masks["Dense_0"]["kernel"].sum())
      16
    """
    graph = as_graph(params, chain, batch_stats)
    method = checked_method(method, steps)
    scope = checked_scope(scope)
    levels = sparsity_per_layer(sparsity, [layer.name for layer in graph.prunable])
    if scope.compare == "global" and method.order is not None:
        raise PruningError(
            f"method with order {method.order!r} prunes layer after layer, global scope all at "
            "once: use 'LAP' with steps, or scope='layer'"
        )
    _warn_if_cancelled(method, scope)
    kept = kept_by_step(graph, method, scope, levels)
    start = None if masks is None else _earlier(graph, scope, masks, kept[-1])
    measured = checked_measured(graph, measured)
    by_path = masks_by_path(graph, method, scope, params, kept, batch_stats, key, start, measured)
    return map_by_path(lambda path, _: by_path.get(path, jnp.bool_(True)), params)


def kept_by_step(graph: Graph, method: Method, scope: Scope, levels: Sequence[float]) -> np.ndarray:
    """Return how many units stay after each step: uint32 ``[steps, layers]`` (global: 1 layer)."""
    shapes = {layer.name: layer.shape for layer in graph.prunable}
    steps = range(1, method.steps + 1)
    return np.array(
        [kept_units(scope, shapes, levels, step / method.steps) for step in steps], np.uint32
    )


def masks_by_path(
    graph: Graph, method: Method, scope: Scope, params: Any, kept: Any,
    batch_stats: Any | None, key: jax.Array | None, start: dict[str, jax.Array] | None,
    measured: Mapping[str, Measured] | None = None,
) -> dict[str, jax.Array]:  # fmt: skip
    """Return the masks of the kernels in the graph.

    Args:
      graph, method, scope, params, batch_stats, key: checked, as in `lookahead_masks`.
      kept: from `kept_by_step`; may be traced.
      start: by layer name, what an earlier pruning left.
      measured: by layer name.
    """
    kernels, tensors = _inputs(graph, method, params, batch_stats, key)
    compiled = partial(_masks, graph, method, scope, layouts(kernels.values()))
    masks, peaks = on_any_mesh(compiled, kernels, tensors, kept, key, start, dict(measured or {}))
    _check_finite(graph, kernels, peaks, tensors)
    shapes = {path: tuple(jnp.shape(leaf)) for path, leaf in leaves_by_path(params).items()}
    return leaves_of(graph, masks, shapes)


def masks_from_scores(tree: Any, sparsity: Sparsity, *, scope: str | Scope = "layer") -> Any:
    """Return the masks of scores of your own, selected as `lookahead_masks` selects.

    Pure; under `jax.jit` and `jax.vmap` too.

    Args:
      tree: a pytree of floating-point arrays, not negative, larger where a weight matters more;
        each array is a layer. Where the scope has units or groups, the last two axes are the inputs
        and the outputs.
      sparsity, scope: as in `lookahead_masks`; layers are named by their path in the tree.

    Returns:
      A tree of the structure of ``tree``: boolean arrays of their shapes and sharding.

    Raises:
      PruningError: for scores that are NaN, negative (neither can be seen under a trace) or not
        floating point; for a bad sparsity or scope.

    Example:
      >>> masks = masks_from_scores({"a": jnp.arange(8.0)}, 0.75)
      >>> masks["a"].tolist()
      [False, False, False, False, False, False, True, True]
    """
    scope = checked_scope(scope)
    leaves = leaves_by_path(tree)
    if not leaves:
        raise PruningError("the tree of scores holds no array: pass a tree with at least one")
    for name, leaf in leaves.items():
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise PruningError(
                f"the scores of {name!r} are {jnp.result_type(leaf)}: expected floating point"
            )
        if jnp.size(leaf) == 0:
            raise PruningError(f"{name!r} of shape {jnp.shape(leaf)} holds no scores: leave it out")
    shapes = {name: tuple(jnp.shape(leaf)) for name, leaf in leaves.items()}
    levels = sparsity_per_layer(sparsity, tuple(leaves))
    kept = np.array(kept_units(scope, shapes, levels), np.uint32)
    compiled = partial(_select, scope, layouts(leaves.values()))
    masks, lowest = on_any_mesh(compiled, leaves, kept)
    for name, least in lowest.items():
        if not isinstance(least, jax.core.Tracer) and not least >= 0:
            raise PruningError(
                f"the scores of {name!r} have {'NaN' if jnp.isnan(least) else f'{least:g}'} among "
                "them: expected numbers that are not negative"
            )
    return map_by_path(lambda path, _: masks[path], tree)


def lookahead_scores(
    params: Any,
    chain: Graph | Sequence[str | Norm | Layer],
    *,
    method: str | Method = "LAP",
    batch_stats: Any | None = None,
    key: jax.Array | None = None,
    measured: Mapping[str, Measured] | None = None,
) -> dict[str, jax.Array]:
    """Return the score of every weight in the chain, to select in a way of your own.

    ``|w| * a_prev[j] * a[k] * ||W_prev[j, :]||_F * ||W_next[:, k]||_F`` for "LAP" (Eq. 5 and 9).

    Args:
      params, chain, batch_stats, key, measured: as in `lookahead_masks`.
      method: a method without order or steps: MP, RP, LFP, LBP, LAP, or such a `Method`.

    Returns:
      ``{layer name: scores}``, each of its kernel's shape, float32 (float64 for a float64 kernel).
      Comparable within a layer; across layers only up to the layers' own scales.

    Raises:
      PruningError: as `lookahead_masks`; also for a method with an order or steps, because its
        scores depend on what is pruned already.
    """
    graph = as_graph(params, chain, batch_stats)
    chosen = checked_method(method, None)
    if chosen.order is not None or chosen.steps > 1:
        raise PruningError(
            f"method {method!r} scores weights on what is pruned already: use lookahead_masks, or "
            "score masked parameters with 'LAP'"
        )
    kernels, tensors = _inputs(graph, chosen, params, batch_stats, key)
    measured = dict(checked_measured(graph, measured))
    compiled = partial(_scores, graph, chosen)
    found, peaks = on_any_mesh(compiled, kernels, tensors, key, measured)
    _check_finite(graph, kernels, peaks, tensors)
    return {layer.name: found[layer.name] for layer in graph.layers if not layer.reads}


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _masks(
    graph: Graph,
    method: Method,
    scope: Scope,
    lay: Layouts,
    kernels: dict[str, jax.Array],
    tensors: dict[str, Any],
    kept: jax.Array,
    key: jax.Array | None,
    start: dict[str, jax.Array] | None,
    measured: dict[str, Measured],
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Prune all layers; ``kept`` is [steps, layers]. Also return each layer's largest ``|w|``."""
    peaks = {name: scores.peak(kernel) for name, kernel in kernels.items()}
    gains = _gains(graph, tensors, measured)
    looks = _looks(method)
    # Within a layer a power of two changes nothing; between layers it would.
    rescale = scope.compare == "layer" or scope.normalize != "none"
    prunable = graph.prunable
    ordered = prunable[:: -1 if method.order == "backward" else 1]
    places = {layer.name: index for index, layer in enumerate(prunable)}
    again, around = _read_again(graph), _around(graph, method)

    def completed(masks: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Add the masks of layers that are not pruned, or hold the weights of another."""
        for layer in graph.layers:
            for other in again.get(layer.name, ()):
                if layer.name in masks:
                    masks = {**masks, other.name: as_read(layer, other, masks[layer.name])}
        full = {layer.name: layer.shape for layer in graph.layers if layer.name not in masks}
        masks = masks | {name: jnp.ones(shape, bool) for name, shape in full.items()}
        return {layer.name: masks[layer.name] for layer in graph.layers}

    def prune(masks: dict[str, jax.Array] | None, counts: jax.Array) -> dict[str, jax.Array]:
        weights = kernels
        if masks is not None:
            # The barrier keeps XLA from lifting |w| of all layers out of the loop, into memory.
            weights, counts = lax.optimization_barrier((kernels, counts))
        flows = _flows(graph, weights, peaks, masks) if looks else {}

        def contest(layer: Node, reach: Reach, seen: Mapping[str, jax.Array]) -> Contest:
            among = None if masks is None else masks[layer.name]
            function, operands = _scored(
                around, layer, method, weights, seen, reach, again, key, rescale
            )
            return Contest(function, operands, layer.shape, among)

        seen = dict(masks or {})
        reach = _reach(graph, weights, seen, flows, gains, measured)
        if method.order is None or not looks:
            contests = {layer.name: contest(layer, reach, seen) for layer in prunable}
            return laid_out(lay, completed(select(scope, contests, counts)))
        new: dict[str, jax.Array] = {}
        for layer in ordered:
            count = counts[places[layer.name]]
            new |= select(scope, {layer.name: contest(layer, reach, seen)}, count[None])
            for part in (layer, *again.get(layer.name, ())):
                mask = new[layer.name]
                mask = as_read(layer, part, mask) if part.reads else mask
                flow = scores.flow(part, weights[part.name], peaks[part.name], mask)
                flows, seen = {**flows, part.name: flow}, {**seen, part.name: mask}
            reach = _reach(graph, weights, seen, flows, gains, measured)
        return laid_out(lay, completed(new))

    if method.steps == 1:
        return _both(prune(start, kept[0]), start), peaks
    # The first step starts from full masks, rather than being compiled apart from the others.
    full = start or {name: jnp.ones(kernel.shape, bool) for name, kernel in kernels.items()}
    masks = lax.fori_loop(
        0, method.steps, lambda step, masks: _both(prune(masks, kept[step]), start), full
    )
    return masks, peaks


def _both(masks: dict[str, jax.Array], start: dict[str, jax.Array] | None) -> dict[str, jax.Array]:
    """Return what both keep: a step may allow for more than an earlier pruning left."""
    return masks if start is None else {name: masks[name] & start[name] for name in masks}


def _looks(method: Method) -> bool:
    return method.score == "lookahead" and method.horizon != 0


def _around(graph: Graph, method: Method) -> Graph:
    """Return the graph as the method's scores read it: exact lags go from layer to layer."""
    return direct(graph) if method.lags and _looks(method) else graph


def _read_again(graph: Graph) -> dict[str, list[Node]]:
    """Return, by layer, the layers that hold the same weights, read another way."""
    again: dict[str, list[Node]] = {}
    for layer in graph.layers:
        if layer.reads:
            again.setdefault(layer.reads, []).append(layer)
    return again


def _reach(
    graph: Graph, kernels: Mapping[str, jax.Array], masks: Mapping[str, jax.Array],
    flows: Flows, gains: Mapping[str, jax.Array], measured: Mapping[str, Measured],
) -> Reach:  # fmt: skip
    def weigh(name: str, amplitudes: jax.Array, forward: bool) -> jax.Array:
        return scores.weigh(graph[name], kernels[name], amplitudes, forward, masks.get(name))

    return Reach(graph, flows, gains, weigh, measured, {})


@partial(jax.jit, static_argnums=(0, 1))
def _scores(
    graph: Graph,
    method: Method,
    kernels: dict[str, jax.Array],
    tensors: dict[str, Any],
    key: jax.Array | None,
    measured: dict[str, Measured],
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    gains = _gains(graph, tensors, measured)
    peaks = {name: scores.peak(kernel) for name, kernel in kernels.items()}
    flows = _flows(graph, kernels, peaks) if _looks(method) else {}
    reach = _reach(graph, kernels, {}, flows, gains, measured)
    again, around = _read_again(graph), _around(graph, method)
    found = {}
    for layer in graph.layers:
        function, operands = _scored(around, layer, method, kernels, {}, reach, again, key, False)
        found[layer.name] = function(*operands)
    return found, peaks


def _scored(
    graph: Graph, layer: Node, method: Method, kernels: Mapping[str, jax.Array],
    masks: Mapping[str, jax.Array], reach: Reach, again: Mapping[str, list[Node]],
    key: jax.Array | None, rescale: bool,
) -> tuple[Scored, tuple[Any, ...]]:  # fmt: skip
    """Return the scores of a layer as a function and its operands, for `Contest`."""
    kernel = kernels[layer.name]
    if method.score == "random":
        assert key is not None
        return lambda drawn: drawn, (scores.random(layer, key),)
    if not _looks(method):
        return scores.magnitude, (kernel,)
    if method.lags:
        pairs = lags.pair_factors(graph, layer, kernels, masks, reach.gains, rescale)
        return scores.by_pair, (kernel, pairs)
    reads = (layer, *again.get(layer.name, ()))
    found = [
        scores.sides(reach, read, method.direction, method.horizon, rescale and len(reads) == 1)
        for read in reads
    ]

    def function(kernel: jax.Array, *found: scores.Sides) -> jax.Array:
        first = scores.lookahead(kernel, layer.groups, found[0])
        if len(found) == 1:
            return first
        others = [
            as_read(read, layer, scores.lookahead(as_read(layer, read, kernel), read.groups, sides))
            for read, sides in zip(reads[1:], found[1:], strict=True)
        ]
        return euclidean(jnp.stack([first, *others]), 0)

    return function, (kernel, *found)


@partial(jax.jit, static_argnums=(0, 1))
def _select(
    scope: Scope,
    lay: Layouts,
    leaves: dict[str, jax.Array],
    kept: jax.Array,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Select among given scores. Also return the least of each array."""
    contests = {name: Contest(scores.widen, (leaf,), leaf.shape) for name, leaf in leaves.items()}
    masks = laid_out(lay, select(scope, contests, kept))
    return masks, {name: jnp.min(lax.optimization_barrier(leaf)) for name, leaf in leaves.items()}


def _flows(
    graph: Graph,
    kernels: Mapping[str, jax.Array],
    peaks: Mapping[str, jax.Array],
    masks: Mapping[str, jax.Array] | None = None,
) -> Flows:
    return {
        name: scores.flow(graph[name], kernel, peaks[name], masks[name] if masks else None)
        for name, kernel in kernels.items()
    }


def _gains(
    graph: Graph, tensors: Mapping[str, Any], measured: Mapping[str, Measured]
) -> dict[str, jax.Array]:
    """Return what multiplies the outputs of layers and junctions, where something does."""
    gains = {
        name: scores.factor(part, parts)
        if isinstance(part := graph.parts[name], Junction)
        else scores.gain(part, parts)
        for name, parts in tensors.items()
    }
    for name, found in measured.items():
        if found.active is not None:
            gains[name] = gains.get(name, 1.0) * jnp.sqrt(scores.widen(found.active))
    return gains


def checked_measured(graph: Graph, measured: Mapping[str, Measured] | None) -> dict[str, Measured]:
    """Return measurements that fit the graph.

    Raises:
      PruningError: if they name another layer, or have another size.
    """
    for name, found in (measured or {}).items():
        layer = graph[name]
        for field, size in (("input", layer.in_size), ("active", layer.out_size),
                            ("output", layer.out_size)):  # fmt: skip
            values = getattr(found, field)
            if values is not None and jnp.shape(values) != (size,):
                raise PruningError(
                    f"measured {field} of layer {name!r} has shape {jnp.shape(values)}: expected "
                    f"({size},)"
                )
    return dict(measured or {})


def _warn_if_cancelled(method: Method, scope: Scope) -> None:
    """Say where a factor of the score is the same for all that compete, and so without effect."""
    if scope.group is None or not _looks(method):
        return
    lost = {-2: "forward", -1: "backward"}.get(scope.axis)
    if lost and method.direction in ("both", lost):
        other = "backward" if lost == "forward" else "forward"
        left = f"as if it only looked {other}" if method.direction == "both" else "as magnitude"
        warnings.warn(
            f"groups along axis {scope.axis} compare weights of one "
            f"{'output' if lost == 'forward' else 'input'} neuron: the look-{lost} factor is the "
            f"same for all of them and cancels, so the method prunes {left}",
            stacklevel=3,
        )


def checked_method(method: str | Method, steps: int | None = None) -> Method:
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
    horizon = method.horizon
    if horizon != "all" and (not isinstance(horizon, int) or horizon < 0):
        raise PruningError(f"horizon is {horizon!r}: expected 0, 1, a larger number, or 'all'")
    if method.lags and (horizon != 1 or method.direction != "both"):
        raise PruningError("lags look one layer ahead and back: use horizon=1, direction='both'")
    return method


def _earlier(graph: Graph, scope: Scope, masks: Any, kept: np.ndarray) -> dict[str, jax.Array]:
    """Return the masks of an earlier pruning by layer; refuse those with less than ``kept``."""
    by_path, found = leaves_by_path(masks), {}
    for layer in graph.layers:
        mask = by_path.get(layer.path)
        if mask is None or not fits(layer, jnp.shape(mask)) or not _is_bool(mask):
            what = "no array" if mask is None else f"{jnp.result_type(mask)}{list(jnp.shape(mask))}"
            raise PruningError(
                f"masks hold {what} at {layer.path!r}: expected bool{list(layer.shape)}, as "
                "lookahead_masks returns"
            )
        found[layer.name] = kernel_of(layer, jnp.asarray(mask))
    if scope.unit == (1, 1) and scope.group is None:
        prunable = {layer.name: found[layer.name] for layer in graph.prunable}
        left = [mask.sum() for mask in prunable.values()]
        if not any(isinstance(count, jax.core.Tracer) for count in left):
            counts = [int(count) for count in left]
            names, sums = list(prunable), counts
            if scope.compare == "global":
                names, sums = ["all layers"], [sum(counts)]
            for name, count, wanted in zip(names, sums, kept.tolist(), strict=True):
                if wanted > count:
                    raise PruningError(
                        f"layer {name!r}: the sparsity keeps {wanted} weights, the masks given "
                        f"left {count}: raise the sparsity, or leave masks out to start anew"
                    )
    return found


def _is_bool(mask: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(mask), jnp.bool_))


def _inputs(
    graph: Graph, method: Method, params: Any, batch_stats: Any | None, key: jax.Array | None
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """Collect the arrays that the method reads."""
    if method.score == "random" and key is None:
        raise PruningError("random pruning needs a key: pass key=jax.random.key(seed)")
    leaves = leaves_by_path(params)
    kernels = {layer.name: kernel_of(layer, leaves[layer.path]) for layer in graph.layers}
    tensors = norm_tensors(graph, params, batch_stats) if _looks(method) else {}
    return kernels, tensors


def _check_finite(
    graph: Graph,
    kernels: Mapping[str, Any],
    peaks: Mapping[str, jax.Array],
    tensors: Mapping[str, Any],
) -> None:
    """Refuse NaN and infinite numbers where they can be seen, which is not under a trace."""
    named = {_called(graph.parts[name], part): tensor
             for name, parts in tensors.items() for part, tensor in parts.items()}  # fmt: skip
    seen = {name: peak for name, peak in peaks.items() if not isinstance(peak, jax.core.Tracer)}
    for name, peak in jax.device_get(seen).items():
        if not np.isfinite(peak):
            raise _not_finite(f"layer {name!r}", kernels[name], "weights")
    # Arrays that a traced function closes over can be seen, too.
    with jax.ensure_compile_time_eval():
        for name, tensor in named.items():
            if not isinstance(tensor, jax.core.Tracer) and not _all_finite(tensor):
                raise _not_finite(name, tensor, "entries")


def _called(part: Node | Junction, leaf: str) -> str:
    """Return how an error names what multiplies the channels of a layer or junction."""
    if isinstance(part, Node) and part.norm:
        return f"{part.norm.path}/{leaf} after layer {part.name!r}"
    return f"{leaf} in {part.name!r}"


@jax.jit
def _all_finite(tensor: jax.Array) -> jax.Array:
    return jnp.isfinite(tensor).all()


def _not_finite(name: str, tensor: Any, what: str) -> PruningError:
    return PruningError(
        f"{name} has {int(jnp.sum(~jnp.isfinite(tensor)))} NaN or infinite {what}: "
        "mend the training run, or prune a checkpoint from before they appeared"
    )

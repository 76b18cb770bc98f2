"""The loop: norms of kernels -> what neighbours make of weights -> scores -> masks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Sharding

from lap_jax.batching import for_each
from lap_jax.checks import (
    check_factors,
    check_kernels,
    check_lowest,
    check_tensors,
    checked_measured,
    earlier_masks,
    tensors_by_path,
)
from lap_jax.competing import kept_by_step, levels_by_name, with_outputs
from lap_jax.errors import PruningError
from lap_jax.graph.chain import LayerSpec, as_graph, norm_tensors
from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import Junction, Layer, Norm
from lap_jax.meshes import as_laid_out, on_any_mesh, sharding_of
from lap_jax.methods import (
    Method,
    MethodName,
    checked_method,
    checked_scope_of,
    draws,
    looks,
    warn_if_cancelled,
)
from lap_jax.network import (
    Masks,
    Network,
    Rule,
    flows,
    inputs_of_scores,
    layout_over,
    peaks,
    propagation,
    staged,
)
from lap_jax.neurons import prune_neurons, vector_masks
from lap_jax.passes import prune
from lap_jax.paths import leaves_by_path, map_by_path, shapes_by_path
from lap_jax.scoring import scores
from lap_jax.scoring.gains import Gain, gains
from lap_jax.scoring.kernels import kernel_of, layout_of, leaves_of, part_of, read
from lap_jax.scoring.propagation import Measured
from lap_jax.scoring.scores import Score
from lap_jax.selection.scope import Compare, Scope, checked_scope
from lap_jax.selection.scopes import LayerScores, kept_units, select
from lap_jax.selection.sparsity import Sparsity, sparsity_per_layer


def lookahead_masks(
    params: Any,
    chain: Graph | Sequence[str | Norm | LayerSpec],
    sparsity: Sparsity,
    *,
    method: MethodName | Method | Score = "LAP",
    steps: int | None = None,
    effective: bool | None = None,
    scope: Compare | Scope = "layer",
    batch_stats: Any | None = None,
    key: jax.Array | None = None,
    masks: Any | None = None,
    measured: Mapping[str, Measured] | None = None,
    tensors: Mapping[str, Any] | None = None,
) -> Any:
    """Return the masks of a pruned network (Algorithm 1 and the variants of Section 2.3).

    Pure; under `jax.jit` and `jax.vmap` too (sparsity must then be a plain number). Compiled are as
    many programs as there are shapes, whatever the depth, and they serve every sparsity.

    Args:
      params: the parameters: a dict, FrozenDict, ``nnx.State`` or any pytree with named paths, or
        Linen's whole variables with a collection ``params``. Kernels are float16, bfloat16, float32
        or float64; scores are float32 or wider. Every layer of the graph is pruned, an embedding
        and the head among them: `Graph.pin` leaves layers whole.
      chain: what feeds what: a `Graph`, or a declaration for `lap_jax.chain`.
      sparsity: fraction removed, in [0, 1): a number, one per layer in a sequence, or a mapping
        from layer names or patterns (``{"Conv_*": 0.9, "*": 0.5}``). Of whole neurons, groups
        (`neuron_groups`) stand for layers, and kinds are keys too: ``{"heads": 0.25, "*": 0.5}``.
      method: one of `METHODS` by name, a `Method`, or a score function, which stands for
        ``Method(function)``.
      steps: number of sequential steps, in place of the method's own (1, or 5 for "-seq").
      effective: whether only weights on a path from input to output are to be kept, in place of the
        method's own choice (`Method`); `summarize` tells how many are.
      scope: what competes with what: "layer", "global", or a `Scope`, such as
        ``Scope(group=(2, 4))`` or ``Scope(unit="neuron")``.
      batch_stats: running statistics of the batch norms in the chain, where ``params`` does not
        hold them.
      key: PRNG key, for random scores.
      masks: of an earlier pruning. What they removed stays removed, and counts as zero in the norms
        of the neighbours. Where a mask is None or missing, nothing was removed.
      measured: by layer, norms measured on data, from `lap_jax.measure`, in place of what the
        weights of the neighbours say.
      tensors: by name, what else a score of your own takes, such as ``{"gradients": grads}``: trees
        with the paths of the parameters, their arrays of the kernels' shapes.

    Returns:
      A tree of the structure of ``params``: for the kernels in the chain a boolean array of the
      kernel's shape and sharding, True where the weight stays, with exactly
      ``round((1 - sparsity) * size)`` True entries (of blocks, channels or groups: as many of
      those); for every other leaf a scalar True, but where whole neurons go: then masks of biases,
      scales and means go with those of the kernels. Equal scores are told apart by position: the
      earlier in row-major order stays.

    Warns:
      UserWarning: of weights that could not be read into the graph, with the reasons: they stay.

    Raises:
      PruningError: for a chain that does not fit the parameters (see `lap_jax.chain`); an unknown
        method or scope; channels to remove where only those that the network returns are left; a
        bad sparsity, or one that keeps more than ``masks`` left; a missing key or missing
        ``batch_stats``; NaN or infinite weights, statistics, measurements or tensors; negative
        scores. Under a trace values cannot be seen: there, a NaN score ranks highest, so that the
        weight stays where it shows, a sign is ignored, and where ``masks`` left less than is to be
        kept, less is kept; otherwise the counts remain exact.

    Example:
      >>> params = {name: {"kernel": jnp.ones((8, 8))} for name in ("Dense_0", "Dense_1")}
      >>> masks = lookahead_masks(params, ["Dense_0", "Dense_1"], 0.75)
      >>> int(masks["Dense_0"]["kernel"].sum())
      16
    """
    graph = as_graph(params, chain, batch_stats)
    method = checked_method(method, steps, tensors or ())
    if effective is not None:
        method = method._replace(effective=effective)
    scope = checked_scope_of(method, scope)
    graph = with_outputs(graph, scope)
    levels = levels_by_name(graph, scope, sparsity)
    warn_if_cancelled(method, scope)
    warn_if_unread(graph, scope)
    kept = kept_by_step(graph, method, scope, levels)
    start = None if masks is None else earlier_masks(graph, scope, params, masks, kept[-1])
    by_path = masks_by_path(
        graph, method, scope, params, kept, batch_stats, key, start, measured, tensors
    )
    return map_by_path(lambda path, _: by_path.get(path, jnp.bool_(True)), params)


def warn_if_unread(graph: Graph, scope: Scope) -> None:
    """Warn of weights that no layer of the graph holds, so that they stay whole.

    What is added to channels goes with neurons, or `neuron_groups` tells why not.
    """
    added = {each.source for each in graph.shared} | {path for path, _ in graph.loose}
    known = added if scope.unit == "neuron" else set[str]()
    left = [each for each in graph.unread if each.is_weight and each.path not in known]
    if left:
        count = "1 leaf is" if len(left) == 1 else f"{len(left)} leaves are"
        warnings.warn(
            f"{count} not in the graph, and not pruned: {'; '.join(map(str, left))}", stacklevel=3
        )


def masks_by_path(
    graph: Graph, method: Method, scope: Scope, params: Any, kept: Any,
    batch_stats: Any | None, key: jax.Array | None, start: dict[str, jax.Array] | None,
    measured: Mapping[str, Measured] | None = None, tensors: Mapping[str, Any] | None = None,
) -> dict[str, jax.Array]:  # fmt: skip
    """Return the masks of the kernels in the graph; where neurons go, of all that belongs to them.

    Args:
      graph, method, scope, params, batch_stats, key, measured, tensors: as in `lookahead_masks`;
        graph, method and scope checked.
      kept: from `kept_by_step`; may be traced.
      start: by path, what an earlier pruning left.
    """
    inputs = _inputs(graph, method, params, batch_stats, key, measured, tensors)
    neurons = graph.neurons_by(scope.queries) if scope.unit == "neuron" else None
    whole = shapes_by_path(params)

    def pruned(inputs: _Inputs, kept: Any, start: dict[str, jax.Array] | None) -> Any:
        network = _network(graph, method, inputs)
        tops = peaks(network, list(network.kernels))
        before = None if start is None else _masks_of(graph, start)
        vectors: dict[str, jax.Array] = {}
        if neurons is None:
            found = prune(network, scope, kept, before, tops)
        else:
            found, alive = prune_neurons(network, scope, neurons, kept, before, tops)
            vectors = vector_masks(neurons, alive, whole)
        shapes = {path: leaf.shape for path, leaf in inputs.leaves.items()}
        shardings = {path: sharding_of(leaf) for path, leaf in inputs.leaves.items()}
        lowest = _lowest(network, tops) if callable(method.score) else {}
        return leaves_of(graph, found, shapes, shardings), (tops, lowest, vectors)

    masks, (tops, lowest, vectors) = on_any_mesh(
        pruned, (inputs, kept, start), lambda: inputs.leaves
    )
    _check(graph, inputs, tops, lowest)
    return vectors | masks


def masks_from_scores(tree: Any, sparsity: Sparsity, *, scope: Compare | Scope = "layer") -> Any:
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

    def selected(leaves: dict[str, jax.Array], kept: Any) -> Any:
        given = {
            name: LayerScores(None, (leaf,), leaf.shape, None, sharding_of(leaf))
            for name, leaf in leaves.items()
        }
        lowest = for_each(_least, {name: (None, (leaf,)) for name, leaf in leaves.items()})
        return select(scope, _given, given, kept), lowest

    arrays = {name: jnp.asarray(leaf) for name, leaf in leaves.items()}
    masks, lowest = on_any_mesh(selected, (arrays, kept), lambda: arrays)
    check_lowest(lowest)
    return map_by_path(lambda path, _: masks[path], tree)


def lookahead_scores(
    params: Any,
    chain: Graph | Sequence[str | Norm | LayerSpec],
    *,
    method: MethodName | Method | Score = "LAP",
    batch_stats: Any | None = None,
    key: jax.Array | None = None,
    measured: Mapping[str, Measured] | None = None,
    tensors: Mapping[str, Any] | None = None,
) -> dict[str, jax.Array]:
    """Return the score of every weight in the chain, to select in a way of your own.

    ``|w| * a_prev[j] * a[k] * ||W_prev[j, :]||_F * ||W_next[:, k]||_F`` for "LAP" (Eq. 5 and 9).

    Args:
      params, chain, batch_stats, key, measured, tensors: as in `lookahead_masks`.
      method: a method without order or steps: MP, RP, LFP, LBP, LAP, or such a `Method`.

    Returns:
      ``{layer name: scores}``, each of its kernel's shape, float32 (float64 for a float64 kernel).
      Comparable within a layer; across layers only up to the layers' own scales.

    Raises:
      PruningError: as `lookahead_masks`; also for a method with an order or steps, because its
        scores depend on what is pruned already.
    """
    graph = as_graph(params, chain, batch_stats)
    chosen = checked_method(method, None, tensors or ())
    if chosen.order is not None or chosen.steps > 1:
        raise PruningError(
            f"method {method!r} scores weights on what is pruned already: use lookahead_masks, or "
            "score masked parameters with 'LAP'"
        )
    inputs = _inputs(graph, chosen, params, batch_stats, key, measured, tensors)
    scored = [layer for layer in graph.layers if not layer.tied_to]

    def found(inputs: _Inputs) -> Any:
        network = _network(graph, chosen, inputs)
        tops = peaks(network, list(network.kernels))
        known = None
        if looks(chosen):
            known = propagation(network, flows(network, graph.names, tops, None), {})
        calls = {
            name: ((rule, layout_over(network, name)), operands)
            for name, (rule, operands) in inputs_of_scores(
                network, scored, known, {}, False
            ).items()
        }
        result = for_each(_scores, calls)
        lowest = {}
        if callable(chosen.score):
            lowest = for_each(_least, {name: (None, (each,)) for name, each in result.items()})
        return result, (tops, lowest)

    result, (tops, lowest) = on_any_mesh(
        found,
        (inputs,),
        lambda: {each.name: kernel_of(each, inputs.leaves[each.path]) for each in scored},
    )
    _check(graph, inputs, tops, lowest)
    return result


# ---------------------------------------------------------------- what goes in


class _Inputs(NamedTuple):
    """The arrays that a method reads: kernels' leaves by path, those of factors, and the rest."""

    leaves: dict[str, jax.Array]
    factors: dict[str, dict[str, Any]]
    key: jax.Array | None
    measured: dict[str, Measured]
    tensors: dict[str, dict[str, Any]]


def _inputs(
    graph: Graph, method: Method, params: Any, batch_stats: Any | None, key: jax.Array | None,
    measured: Mapping[str, Measured] | None, tensors: Mapping[str, Any] | None,
) -> _Inputs:  # fmt: skip
    """Collect the arrays that the method reads."""
    if draws(method) and key is None:
        raise PruningError("random pruning needs a key: pass key=jax.random.key(seed)")
    by_path = leaves_by_path(params)
    return _Inputs(
        {layer.path: jnp.asarray(by_path[layer.path]) for layer in graph.layers},
        norm_tensors(graph, params, batch_stats) if looks(method) else {},
        key if draws(method) else None,
        checked_measured(graph, measured),
        tensors_by_path(graph, tensors),
    )


def _network(graph: Graph, method: Method, inputs: _Inputs) -> Network:
    found = gains({name: _gain(graph.parts[name], own) for name, own in inputs.factors.items()})
    for name, seen in inputs.measured.items():
        if seen.active is not None:
            found[name] = found.get(name, 1.0) * jnp.sqrt(scores.widen(seen.active))
    tensors = {
        layer.name: {
            name: part_of(layer, leaves[layer.path]) for name, leaves in inputs.tensors.items()
        }
        for layer in graph.layers
    }
    kernels = {layer.name: part_of(layer, inputs.leaves[layer.path]) for layer in graph.layers}
    return Network(graph, method, kernels, found, inputs.measured, inputs.key, tensors)


def _gain(part: Layer | Junction, leaves: Mapping[str, Any]) -> tuple[Gain, tuple[Any, ...]]:
    """Return what `gains` is to be called with."""
    factors = tuple(replace(factor, path="") for factor in part.factors)
    how = Gain(part.out_size, factors, isinstance(part, Layer))
    return how, tuple(leaves[factor.path] for factor in part.factors)


def _check(
    graph: Graph, inputs: _Inputs, tops: Mapping[str, jax.Array], lowest: Mapping[str, jax.Array]
) -> None:
    """Refuse numbers of which no masks can be made, once all is on its way to the devices."""
    check_kernels(graph, tops, inputs.leaves)
    check_factors(graph, inputs.factors)
    check_tensors(inputs.tensors)
    check_lowest(lowest)


def _lowest(network: Network, tops: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Return the least score of each layer, by which scores of no use are found."""
    graph, known = network.graph, None
    if looks(network.method):
        known = propagation(network, flows(network, graph.names, tops, None), {})
    return for_each(_least_score, inputs_of_scores(network, graph.prunable, known, {}, False))


# ---------------------------------------------------------------- programs of one layer


def _masks_of(graph: Graph, leaves: Mapping[str, jax.Array]) -> Masks:
    """Return masks by layer from masks by path."""
    calls = {layer.name: (layout_of(layer), (part_of(layer, leaves[layer.path]),))
             for layer in graph.layers}  # fmt: skip
    return for_each(read, calls)


def _scores(how: tuple[Rule, Sharding | None], *operands: Any) -> jax.Array:
    function, own = staged(how[0], *operands)
    return as_laid_out(function(*own), how[1])


def _least_score(rule: Rule, *operands: Any) -> jax.Array:
    function, own = staged(rule, *operands)
    return jnp.min(function(*own))


def _least(_: None, scores: jax.Array) -> jax.Array:
    return jnp.min(lax.optimization_barrier(scores))


def _given(_: None, given: jax.Array) -> tuple[Callable[..., jax.Array], tuple[Any, ...]]:
    return scores.widen, (given,)

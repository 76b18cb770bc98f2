"""How a trial prunes: its graph, the sparsity of its layers, its masks, its optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import lap_jax
from experiments.data.source import Dataset
from experiments.methods import measured_by, method_named, tensors_of
from experiments.networks import MODELS
from experiments.networks.setting import narrowed, resized
from experiments.running.keys import key_of
from experiments.running.training import Network, Training
from experiments.store import LayerCount
from experiments.trial import GROUPS, SHUFFLED, UNPRUNED, Trial, as_declared


def _uniform(graph: lap_jax.Graph, sparsity: float) -> dict[str, float]:
    return {layer.name: sparsity for layer in graph.prunable}


SPREADS = {
    "uniform": _uniform,
    "erk": lap_jax.erk_sparsity,
    "ideal-gas": lap_jax.ideal_gas_sparsity,
}
"""Ways to spread one sparsity over layers, by a trial's ``rates``."""


def module_of(trial: Trial, classes: int) -> nn.Module:
    """Return the network; its parameters are float32 whatever it computes in."""
    module = narrowed(MODELS[trial.model].build(classes, trial.activation), trial.divisor)
    if trial.widths:
        module = resized(module, tuple(map(int, trial.widths.split(","))))
    return module.clone(dtype=jnp.dtype(trial.dtype))


def variables_of(network: Network) -> dict[str, Any]:
    """Return a network as a module takes it."""
    stats = {"batch_stats": network.batch_stats} if network.batch_stats else {}
    return {"params": network.params, **stats}


def graph_of(trial: Trial, dataset: Dataset) -> lap_jax.Graph:
    """Return what feeds what, as the trial's way to prune reads it; from shapes alone.

    Where whole neurons go it is the traced one, because all that reads them must be known.
    """
    module = module_of(trial, dataset.classes)
    shape, dtype = (1, *dataset.train_x.shape[1:]), "int32" if dataset.is_text else "float32"
    kind = "traced" if trial.scope == "neuron" else trial.graph
    return _graph(trial.model, kind, module, shape, dtype)


@cache  # tracing a deep network takes seconds, and every trial of a sweep asks
def _graph(
    model: str, kind: str, module: nn.Module, shape: tuple[int, ...], dtype: str
) -> lap_jax.Graph:
    setting, example = MODELS[model], jax.ShapeDtypeStruct(shape, dtype)
    variables = jax.eval_shape(module.init, jax.random.key(0), example)
    chain = {"declared": setting.chain, "identity": setting.chain_identity}.get(kind)
    if chain:
        return lap_jax.chain(variables["params"], chain, variables.get("batch_stats"))
    graph = lap_jax.trace(module.apply, variables, example, train=False)
    return graph.main_path() if kind == "main-path" else graph


def sparsity_of(trial: Trial, dataset: Dataset) -> dict[str, float]:
    """Return the sparsity of each layer, by the trial's level or the one of all layers.

    Layers that only the traced graph knows, such as 1x1 shortcuts, stay whole, so that every way to
    prune takes the same from the same layers.
    """
    setting = MODELS[trial.model]
    declared, graph = graph_of(as_declared(trial), dataset), graph_of(trial, dataset)
    if trial.sparsity:
        levels = {
            layer.name: 0.0 if layer.name in setting.whole else trial.sparsity
            for layer in declared.prunable
        }
    else:
        levels = lap_jax.paper_sparsity(declared, trial.tau, setting.p, setting.q, setting.unpruned)
    if trial.rates:
        pruned, sparsity = _as_one(declared, levels)
        levels |= SPREADS[trial.rates](pruned, sparsity)
    return {layer.name: levels.get(layer.name, 0.0) for layer in graph.prunable}


def neurons_of(trial: Trial, dataset: Dataset) -> dict[str, float]:
    """Return the sparsity of each group of neurons, for whole neurons; from shapes alone.

    The same share of each, but of residual streams, until no more parameters are left than the
    level leaves.

    Raises:
      lap_jax.PruningError: if there are more even when of each group one neuron stays.
    """
    graph, module = graph_of(trial, dataset), module_of(trial, dataset.classes)
    example = jax.ShapeDtypeStruct((1, *dataset.train_x.shape[1:]), "float32")
    params = jax.eval_shape(module.init, jax.random.key(0), example)["params"]
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    removed = sum(size - left for left, size in weights_left(trial, dataset).values())
    kinds = {group.kind for group in lap_jax.neuron_groups(graph).groups}
    return lap_jax.sparsity_within(
        params, graph, total - removed, scope=scope_of(trial), whole=sorted(kinds & {"streams"})
    )


def weights_left(trial: Trial, dataset: Dataset) -> dict[str, tuple[int, int]]:
    """Return how many of how many weights each layer is left, by its name."""
    graph, levels = graph_of(trial, dataset), sparsity_of(trial, dataset)
    return {
        layer.name: (round((1 - levels[layer.name]) * layer.size), layer.size)
        for layer in graph.prunable
    }


def method_of(trial: Trial) -> lap_jax.Method:
    """Return the method with the trial's choices."""
    method = method_named(trial.method.removesuffix(SHUFFLED))
    return method._replace(
        horizon=trial.horizon, lags=trial.lags, effective=trial.effective,
        steps=trial.steps or method.steps,
    )  # fmt: skip


def scope_of(trial: Trial) -> lap_jax.Scope:
    """Return what competes with what."""
    if trial.scope in GROUPS:
        n, m, axis = GROUPS[trial.scope]
        return lap_jax.Scope(group=(n, m), axis=axis)
    if trial.scope == "neuron":
        return lap_jax.Scope(unit="neuron")
    if trial.scope:
        return lap_jax.Scope("global", normalize="lamp" if trial.scope == "lamp" else "norm")
    return lap_jax.Scope()


def masks_of(trial: Trial, network: Network, dataset: Dataset) -> Any:
    """Return the masks of a one-shot trial; of another, or of the control, true everywhere."""
    if trial.method == UNPRUNED or trial.schedule != "one-shot":
        return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), network.params)
    graph = graph_of(trial, dataset)
    measured = measured_of(trial, network, dataset, graph)
    levels: Any = (
        neurons_of(trial, dataset) if trial.scope == "neuron" else sparsity_of(trial, dataset)
    )
    if scope_of(trial).compare == "global":
        graph, levels = _as_one(graph, levels)
    masks = lap_jax.lookahead_masks(
        network.params,
        graph,
        levels,
        method=method_of(trial),
        scope=scope_of(trial),
        batch_stats=network.batch_stats,
        key=key_of(trial, "prune"),
        measured=measured,
        tensors=tensors_of(
            trial.method.removesuffix(SHUFFLED),
            network.params,
            graph,
            measured,
            network.batch_stats,
        ),
    )
    if trial.method.endswith(SHUFFLED):
        masks = shuffled(masks, key_of(trial, f"shuffle {trial.method} {trial.tau}"))
    return jax.tree.map(lambda mask, leaf: jnp.broadcast_to(mask, leaf.shape), masks,
                        network.params)  # fmt: skip


def _as_one(graph: lap_jax.Graph, levels: dict[str, float]) -> tuple[lap_jax.Graph, float]:
    """Return a graph without the layers that stay whole, and the one sparsity of the others.

    It takes as many weights in all as the levels of the layers do.
    """
    pruned = [layer for layer in graph.prunable if levels[layer.name]]
    whole = [layer.name for layer in graph.prunable if not levels[layer.name]]
    removed = sum(levels[layer.name] * layer.size for layer in pruned)
    return graph.pin(*whole), removed / sum(layer.size for layer in pruned)


def measured_of(
    trial: Trial, network: Network, dataset: Dataset, graph: lap_jax.Graph
) -> dict[str, lap_jax.Measured] | None:
    """Return what the method is given of the norms on the first training examples, if anything."""
    used = {*trial.measured.split(","), measured_by(trial.method.removesuffix(SHUFFLED))} - {""}
    if not used:
        return None
    examples = _calibration(trial, dataset)
    module = module_of(trial, dataset.classes)
    found = lap_jax.measure(module.apply, variables_of(network), examples, graph=graph, train=False)
    unused: Any = {field: None for field in lap_jax.Measured._fields if field not in used}
    return {name: each._replace(**unused) for name, each in found.items()}


def _calibration(trial: Trial, dataset: Dataset) -> jax.Array:
    """Return the first training examples; text as whole numbers, as an embedding reads it."""
    inputs = dataset.train_x[: trial.calibration]
    return jnp.asarray(inputs, jnp.int32 if dataset.is_text else jnp.float32)


def repaired(trial: Trial, network: Network, masks: Any, dataset: Dataset) -> Network:
    """Return the network that retraining starts from: as it is, or pruned and repaired."""
    if not trial.repair:
        return network
    module = module_of(trial, dataset.classes)
    examples = _calibration(trial, dataset)
    variables = variables_of(network)
    if trial.repair == "channels":
        variables = lap_jax.repair(module, variables, masks, examples, train=False)
    else:
        variables["params"] = lap_jax.apply_masks(variables["params"], masks)
        variables = lap_jax.recalibrate(module, variables, [examples], train=True)
    return Network(variables["params"], variables.get("batch_stats", {}))


def shuffled(masks: Any, key: jax.Array) -> Any:
    """Return masks with the entries of each array in another order."""
    leaves, structure = jax.tree.flatten(masks)
    keys = jax.random.split(key, len(leaves))
    moved = [
        jax.random.permutation(own, mask.ravel()).reshape(mask.shape)
        for own, mask in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


def counts(trial: Trial, dataset: Dataset, masks: Any) -> tuple[LayerCount, ...]:
    """Count what masks leave of the layers, the same ones for every way to prune.

    What is effective is told by the traced network, which has its shortcuts.
    """
    trial = as_declared(trial)
    graph, whole = graph_of(trial, dataset), graph_of(replace(trial, graph="traced"), dataset)
    own = set(graph.names)
    effective = {row.layer: row.effective for row in lap_jax.summarize(masks, whole).rows}
    return tuple(
        LayerCount(row.layer, row.size, row.kept, row.neurons, row.dead, effective.get(row.layer))
        for row in lap_jax.summarize(masks, graph).rows
        if row.layer in own
    )


def kept_masks(training: Training) -> Any:
    """Return the masks that networks end with, by path."""
    return lap_jax.masks_in(training.state)


def schedule_of(trial: Trial, sparsity: dict[str, float]) -> Sequence[tuple[int, Any]]:
    """Return when a trial's retraining prunes, and to what.

    "iterative" prunes first and then after each cycle; "rewind" trains a cycle before each pruning
    and one after the last; "gradual" prunes through the first three quarters of the steps.
    """
    steps, cycles = trial.retrain_steps, trial.cycles
    if trial.schedule == "iterative":
        return lap_jax.iterative_schedule(sparsity, cycles, max(steps // cycles, 1))
    if trial.schedule == "rewind":
        every = max(steps // (cycles + 1), 1)
        return lap_jax.iterative_schedule(sparsity, cycles, every, begin=every)
    end = max(3 * steps // 4, 1)
    return lap_jax.cubic_schedule(sparsity, 0, end, max(end // cycles, 1))


def steps_of(trial: Trial) -> int:
    """Return how many steps a trial takes: of retraining, or of training where it has no others."""
    return trial.retrain_steps or trial.train_steps


def rate_of(trial: Trial) -> optax.ScalarOrSchedule:
    """Return the learning rate of a trial's steps, of `steps_of` where it falls."""
    rate, steps = trial.learning_rate, max(steps_of(trial), 1)
    if trial.decay == "cosine":
        return optax.cosine_decay_schedule(rate, steps)
    return optax.linear_schedule(rate, 0.0, steps) if trial.decay == "linear" else rate


def optimizer_of(
    trial: Trial, dataset: Dataset, masks: Any
) -> optax.GradientTransformationExtraArgs:
    """Return Adam that keeps pruned weights at zero, or that prunes by the trial's schedule."""
    adam = optax.adam(rate_of(trial))
    if trial.schedule == "one-shot" or trial.method in ("", UNPRUNED):
        return lap_jax.keep_pruned(adam, masks)
    return lap_jax.prune_in_training(
        adam,
        graph_of(trial, dataset),
        schedule_of(trial, sparsity_of(trial, dataset)),
        method=method_of(trial),
        reconnect=trial.schedule == "gradual",
        rewind=trial.schedule == "rewind",
        key=key_of(trial, "prune"),
    )

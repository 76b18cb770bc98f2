"""One trial: its program, its random keys, its masks, its optimizer."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import lap_jax
from experiments.data import Dataset
from experiments.data.augment import black, crop_and_flip
from experiments.networks import MODELS
from experiments.running.training import Network, Trainer, Training
from experiments.store import SHUFFLED, UNPRUNED, LayerCount, Trial

SCHEDULES = ("one-shot", "iterative", "rewind", "gradual")


def network_of(trial: Trial) -> Trial:
    """Return the settings of the trained network, which all methods and levels of a seed share."""
    return replace(
        trial, method="", tau=0, retrain_steps=0, schedule="one-shot", cycles=1, evaluate_every=0
    )


def program_of(trial: Trial) -> Trial:
    """Return the settings that decide what is compiled: all trials with the same share a program.

    Masks are data, so that a one-shot trial's method and level are not among them.
    """
    same = replace(trial, train_steps=0, evaluate_every=0)
    if trial.schedule == "one-shot" or trial.method == UNPRUNED:
        one_shot = replace(same, schedule="one-shot", cycles=1)
        return replace(one_shot, seed=0, method="", tau=0, retrain_steps=0)
    # Random scores come from a key that the program holds.
    return same if trial.method == "RP" else replace(same, seed=0)


def key_of(trial: Trial, purpose: str) -> jax.Array:
    """Return the trial's random key for a purpose; it depends on the seed and the purpose alone."""
    return jax.random.fold_in(jax.random.key(trial.seed), zlib.crc32(purpose.encode()))


def retraining_key(trial: Trial) -> jax.Array:
    """Return the key that decides the batches of retraining."""
    return key_of(trial, f"retrain {trial.method} {trial.tau}")


def module_of(trial: Trial, classes: int) -> nn.Module:
    """Return the network; its parameters are float32 whatever it computes in."""
    module = MODELS[trial.model].build(classes, trial.activation)
    return module.clone(dtype=jnp.dtype(trial.dtype))


def trainer_for(trial: Trial, dataset: Dataset, devices: list[Any] | None = None) -> Trainer:
    """Return the trainer of every trial with the same `program_of`."""
    module = module_of(trial, dataset.classes)
    example = jnp.zeros((1, *dataset.train_x.shape[1:]), jnp.float32)

    def init(key: jax.Array) -> Network:
        variables = module.init(key, example, train=False)
        return Network(variables["params"], variables.get("batch_stats", {}))

    def apply(network: Network, inputs: jax.Array, train: bool) -> tuple[Any, Any]:
        variables = {"params": network.params, "batch_stats": network.batch_stats}
        if train:
            logits, changed = module.apply(variables, inputs, train=True, mutable=["batch_stats"])
            return logits, changed.get("batch_stats", {})
        return module.apply(variables, inputs, train=False), network.batch_stats

    augment = None
    if MODELS[trial.model].augment:
        augment = partial(crop_and_flip, fill=black(jnp.asarray(dataset.train_x)))
    shapes = jax.eval_shape(init, jax.random.key(0))
    reconnects = trial.schedule == "gradual"
    return Trainer(
        apply,
        init,
        partial(_optimizer, trial, shapes),
        (dataset.train_x, dataset.train_y),
        (dataset.test_x, dataset.test_y),
        trial.batch_size,
        augment,
        _as_masked if reconnects else lambda params, state: params,
        devices,
    )


def graph_of(trial: Trial, network: Network) -> lap_jax.Graph:
    """Return the model's layers, with what feeds what; shapes suffice."""
    return lap_jax.chain(network.params, MODELS[trial.model].chain, network.batch_stats)


def sparsity_of(trial: Trial, graph: lap_jax.Graph) -> dict[str, float]:
    """Return the sparsity of each layer at the trial's level, by the model's rule."""
    setting = MODELS[trial.model]
    return lap_jax.paper_sparsity(graph, trial.tau, setting.p, setting.q, setting.unpruned)


def masks_of(trial: Trial, network: Network) -> Any:
    """Return the masks of a one-shot trial; of another, or of the control, true everywhere."""
    if trial.method == UNPRUNED or trial.schedule != "one-shot":
        return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), network.params)
    graph = graph_of(trial, network)
    masks = lap_jax.lookahead_masks(
        network.params,
        graph,
        sparsity_of(trial, graph),
        method=trial.method.removesuffix(SHUFFLED),
        batch_stats=network.batch_stats,
        key=key_of(trial, "prune"),
    )
    if trial.method.endswith(SHUFFLED):
        masks = shuffled(masks, key_of(trial, f"shuffle {trial.method} {trial.tau}"))
    return jax.tree.map(lambda mask, leaf: jnp.broadcast_to(mask, leaf.shape), masks,
                        network.params)  # fmt: skip


def shuffled(masks: Any, key: jax.Array) -> Any:
    """Return masks with the entries of each array in another order."""
    leaves, structure = jax.tree.flatten(masks)
    keys = jax.random.split(key, len(leaves))
    moved = [
        jax.random.permutation(own, mask.ravel()).reshape(mask.shape)
        for own, mask in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


def counts(graph: lap_jax.Graph, masks: Any) -> tuple[LayerCount, ...]:
    """Count what masks leave of the layers."""
    own = set(graph.names)
    return tuple(
        LayerCount(row.layer, row.size, row.kept, row.neurons, row.dead)
        for row in lap_jax.summarize(masks, graph).rows
        if row.layer in own
    )


def start_of(trial: Trial, trained: Network, trainer: Trainer) -> Network:
    """Return the network that the trial's pruning starts from."""
    if trial.schedule != "rewind":
        return trained
    return jax.tree.map(lambda leaf: leaf[0], trainer.init(key_of(trial, "init")[None]))


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


def _optimizer(trial: Trial, shapes: Network, masks: Any) -> optax.GradientTransformationExtraArgs:
    """Return Adam that keeps pruned weights at zero, or that prunes by the trial's schedule."""
    adam = optax.adam(trial.learning_rate)
    if trial.schedule == "one-shot" or trial.method in ("", UNPRUNED):
        return lap_jax.keep_pruned(adam, masks)
    graph = graph_of(trial, shapes)
    return lap_jax.prune_in_training(
        adam,
        graph,
        schedule_of(trial, sparsity_of(trial, graph)),
        method=trial.method,
        reconnect=trial.schedule == "gradual",
        rewind=trial.schedule == "rewind",
        key=key_of(trial, "prune"),
    )


def _as_masked(params: Any, state: Any) -> Any:
    return lap_jax.apply_masks(params, lap_jax.masks_in(state))

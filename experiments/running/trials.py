"""What trials share: the trained network of a seed, the compiled program, its trainer."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import lap_jax
from experiments.data.augment import black, crop_and_flip
from experiments.data.source import Dataset
from experiments.networks import MODELS
from experiments.running.convolving import as_products
from experiments.running.keys import key_of
from experiments.running.pruning import module_of, optimizer_of, steps_of, variables_of
from experiments.running.training import Apply, Network, Trainer
from experiments.trial import UNPRUNED, Trial, as_declared


def network_of(trial: Trial) -> Trial:
    """Return the settings of the trained network, which all ways and levels of a seed share."""
    return replace(
        as_declared(trial), method="", tau=0, sparsity=0.0, retrain_steps=0, schedule="one-shot",
        cycles=1, evaluate_every=0, same_batches=False, shrunk=False,
    )  # fmt: skip


def program_of(trial: Trial) -> Trial:
    """Return the settings that decide what is compiled: all trials with the same share a program.

    Masks are data, so that a one-shot trial's way to prune and level are not among them. Nor is the
    number of steps, unless the learning rate falls over them.
    """
    same = replace(trial, train_steps=0, evaluate_every=0, same_batches=False, shrunk=False)
    if trial.schedule == "one-shot" or trial.method == UNPRUNED:
        one_shot = replace(as_declared(same), schedule="one-shot", cycles=1)
        steps = 0 if trial.decay == "none" else steps_of(trial)
        return replace(one_shot, seed=0, method="", tau=0, sparsity=0.0, retrain_steps=steps)
    # Random scores come from a key that the program holds.
    return same if trial.method == "RP" else replace(same, seed=0)


def is_shrunk(trial: Trial) -> bool:
    """Return whether a trial retrains what shrinking leaves: only of what is pruned at once."""
    return trial.shrunk and trial.schedule == "one-shot" and trial.method != UNPRUNED


def trainer_for(trial: Trial, dataset: Dataset, devices: list[Any] | None = None) -> Trainer:
    """Return the trainer of every trial with the same `program_of`."""
    module = module_of(trial, dataset.classes)
    example = jnp.zeros((1, *dataset.train_x.shape[1:]), jnp.float32)

    def init(key: jax.Array) -> Network:
        variables = module.init(key, example, train=False)
        return as_network(variables)

    augment = None
    if MODELS[trial.model].augment and trial.augment:
        augment = partial(crop_and_flip, fill=black(jnp.asarray(dataset.train_x)))
    reconnects = trial.schedule == "gradual"
    return Trainer(
        _apply_of(module.apply),
        init,
        partial(optimizer_of, trial, dataset),
        (dataset.train_x, dataset.train_y),
        (dataset.test_x, dataset.test_y),
        trial.batch_size,
        augment,
        _as_masked if reconnects else lambda params, state: params,
        devices,
    )


def shrunk(trial: Trial, dataset: Dataset, network: Network, masks: Any) -> lap_jax.Small:
    """Return a pruned network without what training cannot bring to life."""
    module = module_of(trial, dataset.classes)
    example = jnp.asarray(dataset.train_x[:1], jnp.int32 if dataset.is_text else jnp.float32)
    variables = variables_of(network)
    return lap_jax.shrink(module, variables, masks, example, fold=False, train=False)


def applying(trainer: Trainer, small: lap_jax.Small) -> Trainer:
    """Return a trainer of what is left of a network."""
    return trainer.applying(_apply_of(small.apply))


def as_network(variables: Any) -> Network:
    """Return what a module takes as a network."""
    return Network(variables["params"], variables.get("batch_stats", {}))


def start_of(trial: Trial, trained: Network, trainer: Trainer) -> Network:
    """Return the network that the trial's pruning starts from."""
    if trial.schedule != "rewind":
        return trained
    return jax.tree.map(lambda leaf: leaf[0], trainer.init(key_of(trial, "init")[None]))


def _apply_of(call: Any) -> Apply:
    """Return how a trainer applies a module, or what is left of one."""

    def apply(network: Network, inputs: jax.Array, train: bool) -> tuple[Any, Any]:
        variables = variables_of(network)
        on_cpu = jax.default_backend() == "cpu"
        with nn.intercept_methods(as_products) if on_cpu else nullcontext():
            if train:
                logits, changed = call(variables, inputs, train=True, mutable=["batch_stats"])
                return logits, changed.get("batch_stats", {})
            return call(variables, inputs, train=False), network.batch_stats

    return apply


def _as_masked(params: Any, state: Any) -> Any:
    return lap_jax.apply_masks(params, lap_jax.masks_in(state))

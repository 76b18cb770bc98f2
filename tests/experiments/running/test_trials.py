"""What trials share: the network of a seed, the compiled program, its start."""

from dataclasses import replace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lap_jax
from experiments.data.source import Dataset
from experiments.networks.perceptron import Perceptron
from experiments.running.keys import key_of
from experiments.running.trials import network_of, program_of, start_of, trainer_for
from experiments.trial import Trial

TRIAL = Trial("linear", "none", "toy", "LAP", 4, 0, 20, 10, 8, 1e-2, divisor=50)

WAYS: dict[str, Any] = {
    "method": "MP", "tau": 7, "sparsity": 0.5, "graph": "traced", "horizon": "all", "lags": True,
    "effective": True, "retrain_steps": 3, "same_batches": True, "evaluate_every": 2,
    "shrunk": True,
}  # fmt: skip
"""Changes of what is pruned, how far, and of retraining."""

NETWORKS: dict[str, Any] = {
    "model": "fcn", "activation": "relu", "dataset": "digits", "batch_size": 9,
    "learning_rate": 0.1, "dtype": "bfloat16", "divisor": 2,
    "widths": "7", "side": 16, "train_on": 30,
    "augment": False, "decay": "linear",
}  # fmt: skip
"""Changes of what is trained, and by what."""


def dataset(*shape: int) -> Dataset:
    x = np.random.default_rng(0).normal(size=(12, *shape)).astype(np.float32)
    y = np.arange(12, dtype=np.int32) % 3
    return Dataset("toy", x, y, x[:5], y[:5], 3)


@pytest.mark.parametrize("name", WAYS)
def test_ways_share_the_trained_network_and_the_program(name: str) -> None:
    other = replace(TRIAL, **{name: WAYS[name]})
    assert network_of(other) == network_of(TRIAL)
    assert program_of(other) == program_of(TRIAL)


@pytest.mark.parametrize("name", NETWORKS)
def test_another_network_has_a_program_of_its_own(name: str) -> None:
    other = replace(TRIAL, **{name: NETWORKS[name]})
    assert network_of(other) != network_of(TRIAL)
    assert program_of(other) != program_of(TRIAL)


def test_seeds_and_steps_share_a_program_and_no_network() -> None:
    for changed in (replace(TRIAL, seed=1), replace(TRIAL, train_steps=30)):
        assert network_of(changed) != network_of(TRIAL)
        assert program_of(changed) == program_of(TRIAL)


def test_a_learning_rate_that_falls_is_compiled_with_the_steps_that_it_falls_over() -> None:
    falling = replace(TRIAL, decay="cosine")
    assert program_of(replace(falling, train_steps=30)) == program_of(falling)
    assert program_of(replace(falling, retrain_steps=3)) != program_of(falling)
    assert program_of(network_of(falling)) != program_of(falling)
    assert network_of(replace(falling, retrain_steps=3)) == network_of(falling)
    trained = network_of(falling)
    assert program_of(replace(trained, train_steps=30)) != program_of(trained)
    for name in ("method", "tau", "graph"):
        assert program_of(replace(falling, **{name: WAYS[name]})) == program_of(falling)


def test_a_schedule_is_compiled_with_its_way_and_random_scores_with_their_seed() -> None:
    gradual = replace(TRIAL, schedule="gradual", cycles=3)
    assert network_of(gradual) == network_of(TRIAL)
    for name in set(WAYS) - {"same_batches", "evaluate_every", "shrunk"}:
        assert program_of(replace(gradual, **{name: WAYS[name]})) != program_of(gradual)
    assert program_of(replace(gradual, seed=1)) == program_of(gradual)
    random = replace(gradual, method="RP")
    assert program_of(replace(random, seed=1)) != program_of(random)
    control = replace(gradual, method="unpruned", tau=0)
    assert program_of(control) == program_of(TRIAL)


def test_the_trainer_has_the_trials_network() -> None:
    toy = dataset(2, 2, 1)
    trainer = trainer_for(TRIAL, toy, jax.devices()[:1])
    network = trainer.init(key_of(TRIAL, "init")[None])
    chex.assert_shape(network.params["Dense_0"]["kernel"], (1, 4, 1000 // 50))
    own = jax.tree.map(lambda leaf: leaf[0], network)
    masks = jax.tree.map(lambda leaf: jnp.ones(1, bool), network.params)
    errors = trainer.errors(trainer.start(network, masks), "test")
    module = Perceptron((20,), 3, lambda x: x)
    logits: Any = module.apply({"params": own.params}, toy.test_x)
    wrong = logits.argmax(1) != toy.test_y
    assert errors.error[0] == pytest.approx(float(wrong.mean()))

    other = jax.tree.map(jnp.zeros_like, own)
    assert start_of(TRIAL, other, trainer) is other
    chex.assert_trees_all_equal(start_of(replace(TRIAL, schedule="rewind"), other, trainer), own)


def test_only_images_of_a_network_that_wants_it_are_cropped_and_flipped() -> None:
    images = dataset(32, 32, 3)
    conv6 = replace(TRIAL, model="conv6", activation="relu")
    for trial, wanted in ((conv6, True), (replace(conv6, augment=False), False), (TRIAL, False)):
        assert (trainer_for(trial, images)._augment is not None) == wanted


def test_where_pruned_weights_may_come_back_the_forward_pass_is_masked() -> None:
    params = {"Dense_0": {"kernel": jnp.ones((2, 2))}}
    masks = {"Dense_0": {"kernel": jnp.array([[True, False], [False, True]])}}
    state = lap_jax.keep_pruned(optax.sgd(0.1), masks).init(params)
    gradual = replace(TRIAL, schedule="gradual", cycles=2)
    for trial, wanted in ((TRIAL, params), (gradual, lap_jax.apply_masks(params, masks))):
        masked = trainer_for(trial, dataset(2, 2, 1))._masked(params, state)
        chex.assert_trees_all_equal(masked, wanted)

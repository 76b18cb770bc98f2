from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lap_jax
from experiments.running.training import Network, Trainer, Training, draw_batch


@pytest.mark.parametrize(("examples", "size"), [(1437, 60), (500, 60), (61, 60), (60, 60)])
def test_a_batch_never_holds_an_example_twice(examples: int, size: int) -> None:
    keys = jax.random.split(jax.random.key(0), 200)
    batches = np.asarray(jax.vmap(lambda key: draw_batch(key, examples, size))(keys))
    assert batches.min() >= 0
    assert batches.max() < examples
    assert all(len(set(batch)) == size for batch in batches.tolist())


@pytest.mark.parametrize(("examples", "size"), [(40, 3), (40, 20)])
def test_every_example_is_drawn_equally_often(examples: int, size: int) -> None:
    draws = 4000
    keys = jax.random.split(jax.random.key(1), draws)
    batches = jax.vmap(lambda key: draw_batch(key, examples, size))(keys)
    counts = np.bincount(np.asarray(batches).ravel(), minlength=examples)
    expected = draws * size / examples
    # Drawn without replacement, the counts vary by p (1 - p) each: chi-square with n - 1 degrees.
    variance = draws * size / examples * (1 - size / examples) * examples / (examples - 1)
    chi_square = ((counts - expected) ** 2).sum() / variance
    assert chi_square < 90  # the 1 - 1e-5 quantile of 39 degrees of freedom is 84


SIZES = {"a": (5, 16), "b": (16, 3)}


def toy(
    batch_size: int = 8, examples: int = 64, devices: int = 1
) -> tuple[Trainer, Callable[..., Any], tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(examples, 5)).astype(np.float32)
    labels = (inputs @ rng.normal(size=(5, 3))).argmax(1).astype(np.int32)

    def init(key: jax.Array) -> Network:
        keys = dict(zip(SIZES, jax.random.split(key, 2), strict=True))
        return Network(
            {n: {"kernel": jax.random.normal(keys[n], shape) / 2} for n, shape in SIZES.items()},
            {"steps": jnp.zeros(())},
        )

    def apply(network: Network, inputs: jax.Array, train: bool) -> tuple[jax.Array, Any]:
        hidden = jnp.tanh(inputs @ network.params["a"]["kernel"])
        return hidden @ network.params["b"]["kernel"], {"steps": network.batch_stats["steps"] + 1}

    def optimizer(masks: Any) -> optax.GradientTransformationExtraArgs:
        return lap_jax.keep_pruned(optax.adam(0.01), masks)

    data = inputs, labels
    trainer = Trainer(
        apply, init, optimizer, data, data, batch_size, devices=jax.devices()[:devices]
    )
    return trainer, apply, data


def begin(
    trainer: Trainer, networks: int = 1, sparsity: float | None = None
) -> tuple[Network, Any, Training]:
    network = trainer.init(jax.random.split(jax.random.key(0), networks))
    if sparsity is None:
        masks = jax.tree.map(lambda leaf: jnp.ones(len(leaf), bool), network.params)
    else:
        # Any masks will do, and those of the library take longer to compile than to train on.
        rng = np.random.default_rng(2)
        masks = jax.tree.map(lambda leaf: rng.random(leaf.shape) > sparsity, network.params)
    return network, masks, trainer.start(network, masks)


def keys(networks: int = 1) -> jax.Array:
    return jax.random.split(jax.random.key(1), networks)


def test_training_lowers_the_loss_and_leaves_its_start_alone() -> None:
    trainer, *_ = toy()
    network, _, training = begin(trainer, 2)
    before, start = jax.device_get(network), trainer.errors(training, "train")
    training = trainer.advance(training, keys(2), 0, 700)
    chex.assert_trees_all_equal(before, jax.device_get(network))
    assert (trainer.errors(training, "train").loss < 0.5 * start.loss).all()
    chex.assert_trees_all_equal(training.network.batch_stats, {"steps": np.array([700.0, 700.0])})


def test_pruned_weights_are_zero_after_retraining_and_the_others_move() -> None:
    trainer, *_ = toy()
    network, masks, training = begin(trainer, 2, 0.7)
    trained = jax.device_get(trainer.advance(training, keys(2), 0, 30).network.params)
    chex.assert_trees_all_equal(trained, lap_jax.apply_masks(trained, masks))
    for name in SIZES:
        mask = np.asarray(masks[name]["kernel"])
        moved = trained[name]["kernel"][mask] != np.asarray(network.params[name]["kernel"])[mask]
        assert moved.mean() > 0.5  # not all: a neuron that nothing reads has no gradient


def test_steps_in_pieces_are_the_steps_at_once() -> None:
    trainer, *_ = toy()
    whole = trainer.advance(begin(trainer)[2], keys(), 0, 20)
    piece = trainer.advance(begin(trainer)[2], keys(), 0, 13)
    chex.assert_trees_all_equal(
        *map(jax.device_get, (whole, trainer.advance(piece, keys(), 13, 7)))
    )


@pytest.mark.parametrize("networks", [2, 4])
def test_steps_from_the_host_are_those_of_the_loop(networks: int) -> None:
    ends = []
    for from_host in (False, True):
        trainer, *_ = toy(devices=2)
        trainer._stepwise = from_host
        training = begin(trainer, networks, 0.5)[2]
        ends.append(trainer.advance(training, keys(networks), 3, 5))
    chex.assert_trees_all_close(*ends, atol=1e-6)


def test_only_convolutions_on_a_cpu_take_steps_from_the_host() -> None:
    trainer, apply, data = toy()
    assert not trainer._stepwise
    init = lambda key: Network({"kernel": jnp.ones((3, 3, 1, 2))}, {})  # noqa: E731
    assert Trainer(apply, init, lambda _: optax.sgd(0.1), data, data, 8)._stepwise


def test_other_masks_and_numbers_of_steps_compile_nothing(
    count_compilations: Callable[[], AbstractContextManager[list[str]]],
) -> None:
    trainer, *_ = toy()
    trainer.advance(begin(trainer)[2], keys(), 0, 20)
    _, _, training = begin(trainer, 1, 0.7)
    jax.block_until_ready(training)
    with count_compilations() as events:
        trainer.advance(training, keys(), 7, 33)
    assert not events


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_networks_on_several_devices_are_those_of_one(devices: int) -> None:
    alone, *_ = toy()
    several, *_ = toy(devices=devices)
    one = alone.advance(begin(alone, 4, 0.5)[2], keys(4), 0, 25)
    training = several.advance(begin(several, 4, 0.5)[2], keys(4), 0, 25)
    assert several.used(4) == devices
    assert len(training.network.params["a"]["kernel"].sharding.device_set) == devices
    chex.assert_trees_all_close(*map(jax.device_get, (one, training)), rtol=1e-5, atol=1e-6)


def test_a_number_that_the_devices_do_not_divide_uses_fewer() -> None:
    trainer, *_ = toy(devices=4)
    assert [trainer.used(lanes) for lanes in (1, 2, 3, 4, 6, 8)] == [1, 2, 3, 4, 3, 4]
    assert trainer.width == 4
    assert trainer.bytes_per_network() > 2 * 3 * 4 * (5 * 16 + 16 * 3)


@pytest.mark.parametrize(("examples", "some"), [(64, 0), (64, 10), (2100, 0), (2100, 1500)])
def test_errors_equal_a_plain_count(examples: int, some: int) -> None:
    trainer, apply, (inputs, labels) = toy(examples=examples)
    network, _, training = begin(trainer, 2)
    errors = trainer.errors(training, "test", some)
    inputs, labels = inputs[: some or None], labels[: some or None]
    for lane in (0, 1):
        own = jax.tree.map(lambda leaf: leaf[lane], network)  # noqa: B023
        logits = np.asarray(apply(own, inputs, False)[0], np.float64)
        wrong = (logits.argmax(1) != labels).mean()
        shifted = logits - logits.max(1, keepdims=True)
        log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        nats = -log_probability[range(len(labels)), labels].mean()
        assert errors.error[lane] == pytest.approx(wrong, abs=1e-6)
        assert errors.loss[lane] == pytest.approx(nats, rel=1e-5)

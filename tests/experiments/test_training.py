import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lap_jax
from experiments.training import Trainer, draw_batch


@pytest.mark.parametrize(("examples", "size"), [(1437, 60), (500, 60), (61, 60), (60, 60)])
def test_a_batch_never_holds_an_example_twice(examples, size):
    keys = jax.random.split(jax.random.key(0), 200)
    batches = np.asarray(jax.vmap(lambda key: draw_batch(key, examples, size))(keys))
    assert batches.min() >= 0
    assert batches.max() < examples
    assert all(len(set(batch)) == size for batch in batches.tolist())


@pytest.mark.parametrize(("examples", "size"), [(40, 3), (40, 20)])
def test_every_example_is_drawn_equally_often(examples, size):
    draws = 4000
    keys = jax.random.split(jax.random.key(1), draws)
    batches = jax.vmap(lambda key: draw_batch(key, examples, size))(keys)
    counts = np.bincount(np.asarray(batches).ravel(), minlength=examples)
    expected = draws * size / examples
    # Drawn without replacement, the counts vary by p (1 - p) each: chi-square with n - 1 degrees.
    variance = draws * size / examples * (1 - size / examples) * examples / (examples - 1)
    chi_square = ((counts - expected) ** 2).sum() / variance
    assert chi_square < 90  # the 1 - 1e-5 quantile of 39 degrees of freedom is 84


def _toy_trainer(batch_size=8):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(64, 5)).astype(np.float32)
    labels = (inputs @ rng.normal(size=(5, 3))).argmax(1).astype(np.int32)
    params = {
        name: {"kernel": jnp.asarray(rng.normal(size=shape), jnp.float32) * 0.5}
        for name, shape in (("a", (5, 16)), ("b", (16, 3)))
    }

    def apply(params, inputs):
        return jnp.tanh(inputs @ params["a"]["kernel"]) @ params["b"]["kernel"]

    data = inputs, labels
    return Trainer(apply, params, data, data, batch_size, 0.01), params, apply, data


def test_training_lowers_the_loss_and_leaves_its_start_alone():
    trainer, params, *_ = _toy_trainer()
    before = jax.device_get(params)
    trained = trainer.fit(params, None, jax.random.key(0), 700)
    chex.assert_trees_all_equal(before, jax.device_get(params))
    assert trainer.train_errors(trained).loss < 0.5 * trainer.train_errors(params).loss


def test_pruned_weights_are_zero_after_retraining_and_the_others_move():
    trainer, params, *_ = _toy_trainer()
    masks = lap_jax.lookahead_masks(params, ["a", "b"], 0.7)
    trained = trainer.fit(params, masks, jax.random.key(0), 30)
    for name in ("a", "b"):
        mask = np.asarray(masks[name]["kernel"])
        kernel = np.asarray(trained[name]["kernel"])
        assert (kernel[~mask] == 0).all()
        moved = kernel[mask] != np.asarray(params[name]["kernel"])[mask]
        assert moved.mean() > 0.5  # not all: a neuron that nothing reads has no gradient


def test_retraining_another_mask_compiles_nothing():
    trainer, params, *_ = _toy_trainer()
    trainer.fit(params, None, jax.random.key(0), 20)
    compiled = []
    with jax.log_compiles(), _captured_logs(compiled):
        masks = jax.tree.map(lambda leaf: leaf > 0, params)
        trainer.fit(params, masks, jax.random.key(1), 20)
    assert not [text for text in compiled if "jit(run)" in text]


def test_progress_adds_up_to_the_steps():
    trainer, params, *_ = _toy_trainer()
    ticks = []
    trainer.fit(params, None, jax.random.key(0), 1203, ticks.append)
    assert sum(ticks) == 1203
    assert len(ticks) == 3


def test_errors_equal_a_plain_count():
    trainer, params, apply, (inputs, labels) = _toy_trainer()
    logits = np.asarray(apply(params, inputs), np.float64)
    wrong = (logits.argmax(1) != labels).mean()
    shifted = logits - logits.max(1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    errors = trainer.test_errors(params)
    assert errors.error == pytest.approx(wrong, abs=1e-6)
    assert errors.loss == pytest.approx(-log_probability[range(64), labels].mean(), rel=1e-5)


class _captured_logs:
    """Collect what jax logs of compilation."""

    def __init__(self, messages):
        self.messages = messages

    def __enter__(self):
        import logging

        handler = logging.Handler()
        handler.emit = lambda record: self.messages.append(record.getMessage())
        self.handler, self.logger = handler, logging.getLogger("jax")
        self.logger.addHandler(handler)

    def __exit__(self, *_):
        self.logger.removeHandler(self.handler)

"""Training, retraining and evaluation of one network: compiled, data resident on the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

import lap_jax

Params = Any
Apply = Callable[[Params, jax.Array], jax.Array]

CHUNK = 500
"""Steps per compiled call: about a second, between which progress is told."""


class Errors(NamedTuple):
    """Fraction of wrong answers, and mean cross entropy in nats."""

    error: float
    loss: float


def draw_batch(key: jax.Array, examples: int, size: int) -> jax.Array:
    """Draw ``size`` distinct indices below ``examples``, uniformly; int32 ``[size]``.

    Draws with replacement, again until no index comes twice: that leaves all sets of distinct
    indices equally likely. Where it would take many attempts, the whole range is shuffled instead.
    """
    if size * size > 4 * examples:
        return jax.random.permutation(key, examples)[:size]

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.randint(key, (size,), 0, examples)

    def has_twins(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
        ordered = jnp.sort(carry[1])
        return jnp.any(ordered[1:] == ordered[:-1])

    def again(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        key = jax.random.fold_in(carry[0], 1)
        return key, draw(key)

    return lax.while_loop(has_twins, again, (key, draw(key)))[1]


class Trainer:
    """Compiled training of networks of one architecture on one data set.

    Masks are part of the optimizer's state, so that one compilation serves the training, every
    method, level and seed.

    Args:
      apply: ``(params, inputs [batch, ...]) -> logits [batch, classes]``.
      template: parameters, or their shapes, of any such network.
      train, test: inputs and int32 labels, moved to the device once.
      batch_size: examples per step, drawn without replacement, each batch independent of the rest.
      learning_rate: of Adam, constant.
    """

    def __init__(
        self,
        apply: Apply,
        template: Params,
        train: tuple[Any, Any],
        test: tuple[Any, Any],
        batch_size: int,
        learning_rate: float,
    ) -> None:
        """Move the data to the device; nothing is compiled yet."""
        self._train = jax.device_put(train)
        self._test = jax.device_put(test)
        self._optimizer = optax.adam(learning_rate)
        all_kept = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), template)
        self._all_kept = all_kept
        update = lap_jax.keep_pruned(self._optimizer, all_kept).update

        def loss(params: Params, inputs: jax.Array, labels: jax.Array) -> jax.Array:
            logits = apply(params, inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        @partial(jax.jit, static_argnames="steps", donate_argnames="carry")
        def run(
            carry: tuple[Params, Any],
            data: tuple[jax.Array, jax.Array],
            key: jax.Array,
            first: jax.Array,
            steps: int,
        ) -> tuple[Params, Any]:
            inputs, labels = data

            def step(
                carry: tuple[Params, Any], index: jax.Array
            ) -> tuple[tuple[Params, Any], None]:
                params, state = carry
                batch = draw_batch(jax.random.fold_in(key, index), len(labels), batch_size)
                grads = jax.grad(loss)(params, inputs[batch], labels[batch])
                updates, state = update(grads, state, params)
                return (optax.apply_updates(params, updates), state), None

            return lax.scan(step, carry, first + jnp.arange(steps))[0]

        @jax.jit
        def evaluate(params: Params, data: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
            def one(example: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
                logits = apply(params, example[0][None])[0]
                wrong = jnp.argmax(logits) != example[1]
                nats = optax.softmax_cross_entropy_with_integer_labels(logits, example[1])
                return wrong.astype(jnp.float32), nats

            wrong, nats = lax.map(one, data, batch_size=1000)
            return wrong.mean(), nats.mean()

        self._run, self._evaluate = run, evaluate

    def fit(
        self,
        params: Params,
        masks: Any | None,
        key: jax.Array,
        steps: int,
        tick: Callable[[int], None] = lambda steps: None,
    ) -> Params:
        """Train for a number of steps with a new Adam; the pruned weights are zero throughout.

        Args:
          params: where to start; left as it is.
          masks: as from `lap_jax.lookahead_masks`; None trains every weight.
          key: decides the batches.
          steps: number of steps.
          tick: called with the number of steps done since the last call.

        Returns:
          The parameters after the last step.
        """
        full = self._all_kept
        if masks is not None:
            full = jax.tree.map(lambda keep, mask: keep & mask, full, masks)
        params = jax.tree.map(
            lambda leaf: jnp.array(leaf, copy=True), lap_jax.apply_masks(params, full)
        )
        carry = params, lap_jax.keep_pruned(self._optimizer, full).init(params)
        for first in range(0, steps, CHUNK):
            count = min(CHUNK, steps - first)
            carry = self._run(carry, self._train, key, first, steps=count)
            jax.block_until_ready(carry)
            tick(count)
        return carry[0]

    def train_errors(self, params: Params) -> Errors:
        """Evaluate on all training examples."""
        return Errors(*map(float, self._evaluate(params, self._train)))

    def test_errors(self, params: Params) -> Errors:
        """Evaluate on all test examples."""
        return Errors(*map(float, self._evaluate(params, self._test)))

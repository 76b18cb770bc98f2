"""The random keys of a trial: they depend on its seed and on what they are for."""

from __future__ import annotations

import zlib

import jax

from experiments.trial import Trial


def key_of(trial: Trial, purpose: str) -> jax.Array:
    """Return the trial's random key for a purpose; it depends on the seed and the purpose alone."""
    return jax.random.fold_in(jax.random.key(trial.seed), zlib.crc32(purpose.encode()))


def retraining_key(trial: Trial) -> jax.Array:
    """Return the key that decides the batches of retraining."""
    own = "" if trial.same_batches else f" {trial.method} {trial.tau}"
    return key_of(trial, f"retrain{own}")

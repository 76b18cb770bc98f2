"""Keys: by seed and purpose, the same for every method where the batches are to be the same."""

import itertools
from dataclasses import replace

import chex
import jax

from experiments.running.keys import key_of, retraining_key
from experiments.trial import Trial

TRIAL = Trial("fcn", "relu", "digits", "LAP", 4, 0, 100, 50, 60, 1e-3)


def numbers(key: jax.Array) -> tuple[int, ...]:
    return tuple(jax.random.key_data(key).tolist())


def test_a_key_depends_on_the_seed_and_the_purpose_alone() -> None:
    purposes = ("init", "train", "prune", "retrain")
    keys = {
        numbers(key_of(replace(TRIAL, seed=seed), purpose))
        for seed, purpose in itertools.product(range(3), purposes)
    }
    assert len(keys) == 3 * len(purposes)
    other = replace(TRIAL, method="MP", tau=9, model="linear", train_steps=7, learning_rate=1.0)
    chex.assert_trees_all_equal(key_of(other, "init"), key_of(TRIAL, "init"))


def test_keys_are_the_same_on_every_machine() -> None:
    """By CRC-32, whose published check value this is; `hash` is another in every process."""
    wanted = jax.random.fold_in(jax.random.key(5), 0xCBF43926)
    chex.assert_trees_all_equal(key_of(replace(TRIAL, seed=5), "123456789"), wanted)


def test_batches_of_retraining_are_a_trials_own_or_all_the_same() -> None:
    ways = [
        replace(TRIAL, method=method, tau=tau, seed=seed)
        for method in ("MP", "LAP") for tau in (4, 5) for seed in (0, 1)
    ]  # fmt: skip
    assert len({numbers(retraining_key(trial)) for trial in ways}) == len(ways)
    same = [replace(trial, same_batches=True) for trial in ways]
    assert len({numbers(retraining_key(trial)) for trial in same}) == 2  # one for each seed

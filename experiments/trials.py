"""Trials: train a network (once per seed), prune it, measure, retrain, measure."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load, save

import lap_jax
from experiments.datasets import Dataset
from experiments.models import MODELS
from experiments.results import Result, Store, Trial, settings_name, write_atomically
from experiments.training import Trainer

Tick = Callable[[int], None]


def pending(trials: Sequence[Trial], store: Store) -> list[Trial]:
    """Return the trials that the store has no result of."""
    done = {result.trial for result in store.load()}
    return [trial for trial in trials if trial not in done]


def steps_to_do(trials: Sequence[Trial], store: Store) -> int:
    """Return how many training steps these trials take, networks in the store not counted."""
    networks = {_network_path(trial, store): trial.train_steps for trial in trials}
    training = sum(steps for path, steps in networks.items() if not path.exists())
    return training + sum(trial.retrain_steps for trial in trials)


def run(trials: Sequence[Trial], dataset: Dataset, store: Store, tick: Tick) -> Iterator[Result]:
    """Run trials of one model, data set and training setting; yield each result once it is stored.

    What a trial gives depends on its own settings alone, not on the others or their order.
    """
    first = trials[0]
    setting = MODELS[first.model]
    module = setting.build(dataset.classes, first.activation)
    inputs = jnp.zeros((1, *dataset.train_x.shape[1:]), jnp.float32)

    def apply(params: Any, inputs: jax.Array) -> jax.Array:
        return jnp.asarray(module.apply({"params": params}, inputs))

    def init(key: jax.Array) -> Any:
        return module.init(key, inputs)["params"]

    trainer = Trainer(
        apply,
        jax.eval_shape(init, jax.random.key(0)),
        (dataset.train_x, dataset.train_y),
        (dataset.test_x, dataset.test_y),
        first.batch_size,
        first.learning_rate,
    )
    errors: dict[Path, tuple[float, float]] = {}
    for trial in trials:
        path = _network_path(trial, store)
        if path.exists():
            trained = _load(path)
        else:
            key = _key(trial, "train")
            trained = trainer.fit(
                jax.jit(init)(_key(trial, "init")), None, key, trial.train_steps, tick
            )
            _save(trained, path)
        if path not in errors:
            errors[path] = trainer.test_errors(trained).error, trainer.train_errors(trained).error
        result = _prune_and_retrain(trial, trained, errors[path], trainer, tick)
        store.add(result)
        yield result


def _prune_and_retrain(
    trial: Trial, trained: Any, unpruned: tuple[float, float], trainer: Trainer, tick: Tick
) -> Result:
    start = time.perf_counter()
    setting = MODELS[trial.model]
    graph = lap_jax.chain(trained, setting.chain)
    sparsity = lap_jax.paper_sparsity(graph, trial.tau, setting.p, setting.q)
    masks = lap_jax.lookahead_masks(
        trained, graph, sparsity, method=trial.method, key=_key(trial, "prune")
    )
    pruned = lap_jax.apply_masks(trained, masks)
    key = _key(trial, f"retrain {trial.method} {trial.tau}")
    retrained = trainer.fit(pruned, masks, key, trial.retrain_steps, tick)
    total = lap_jax.summarize(masks).total
    return Result(
        trial,
        kept=total.kept / total.size,
        unpruned=unpruned[0],
        before=trainer.test_errors(pruned).error,
        after=trainer.test_errors(retrained).error,
        train_unpruned=unpruned[1],
        train_before=trainer.train_errors(pruned).error,
        train_after=trainer.train_errors(retrained).error,
        seconds=time.perf_counter() - start,
    )


def _key(trial: Trial, purpose: str) -> jax.Array:
    return jax.random.fold_in(jax.random.key(trial.seed), zlib.crc32(purpose.encode()))


def _network_path(trial: Trial, store: Store) -> Path:
    """Where the trained network of a trial is kept: one for all methods and levels of a seed."""
    settings = {
        field: getattr(trial, field)
        for field in ("model", "activation", "dataset", "seed", "train_steps", "batch_size",
                      "learning_rate")
    }  # fmt: skip
    return store.folder / f"network-{settings_name(settings, {})}.safetensors"


def _save(params: Any, path: Path) -> None:
    write_atomically(path, save(jax.device_get(flatten_dict(params, sep="/"))))


def _load(path: Path) -> Any:
    return unflatten_dict(
        {name: jnp.asarray(array) for name, array in load(path.read_bytes()).items()}, sep="/"
    )

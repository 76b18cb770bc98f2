"""A sweep: trials cut into units of work that are done once, whoever does them.

A unit is as many networks as are trained together. Its results are written in one transaction;
until then a checkpoint holds how far it is. A process works on a unit while it holds the unit's
lock file, which the system takes back when the process dies. So a sweep can be killed at any moment
and goes on when the same command is given again, and several processes can share one. Networks and
checkpoints carry checksums: a damaged one is set aside in the folder ``damaged``, and the work goes
on from the checkpoint before it, or is done again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from filelock import FileLock, Timeout

import lap_jax
from experiments.data.source import Dataset
from experiments.files import set_aside
from experiments.running import checkpoints, costs
from experiments.running.keys import key_of, retraining_key
from experiments.running.pruning import (
    counts,
    graph_of,
    kept_masks,
    masks_of,
    module_of,
    repaired,
    variables_of,
)
from experiments.running.training import Network, Trainer, Training
from experiments.running.trials import (
    applying,
    as_network,
    is_shrunk,
    network_of,
    program_of,
    shrunk,
    start_of,
    trainer_for,
)
from experiments.store import Evaluation, Result, Store
from experiments.trial import Trial, as_declared, settings_name

Tick = Callable[[int], None]
Say = Callable[[str], None]

SECONDS_PER_CALL = 1.0
"""About how long a compiled call runs: between two of them progress is told."""


@dataclass(frozen=True)
class Unit:
    """Trials whose networks are trained together, or, to be ``trained``, retrained together."""

    trials: tuple[Trial, ...]
    retrains: bool

    @property
    def name(self) -> str:
        """A file name of its own."""
        members = ",".join(trial.name for trial in self.trials)
        return settings_name({"trials": members, "retrains": self.retrains}, {})

    @property
    def steps(self) -> int:
        """Number of training steps of one of its networks."""
        first = self.trials[0]
        return first.retrain_steps if self.retrains else first.train_steps


@dataclass(frozen=True)
class Options:
    """What decides how a sweep is worked off, and nothing about its results.

    Attributes:
      width: networks to train together; 0: as many as the devices hold.
      checkpoint_seconds: time between two checkpoints of a unit.
      devices: to use; all by default.
      keep: keep retrained networks, their masks and kept weights.
    """

    width: int = 0
    checkpoint_seconds: float = 60.0
    devices: tuple[Any, ...] | None = None
    keep: bool = False


def units_of(
    trials: Sequence[Trial], trained: Callable[[Trial], bool], width: Callable[[Trial], int]
) -> list[Unit]:
    """Cut trials into units: all networks to train, then all trials to retrain.

    Units are done whole, so that what is left after an interruption is cut as it was before.

    Args:
      trials: without repetition; those that are not done.
      trained: whether a trial's network is there.
      width: how many networks of a trial's program go together.
    """
    units = []
    for retrains in (False, True):
        groups: dict[Trial, list[Trial]] = {}
        networks = [trial for trial in dict.fromkeys(map(network_of, trials)) if not trained(trial)]
        for trial in trials if retrains else networks:
            same = replace(
                program_of(trial),
                train_steps=0 if retrains else trial.train_steps,
                shrunk=retrains and is_shrunk(trial),
            )
            groups.setdefault(same, []).append(trial)
        for group in groups.values():
            # What is left of networks has another shape for each.
            size = 1 if retrains and is_shrunk(group[0]) else width(group[0])
            units += [
                Unit(tuple(group[first : first + size]), retrains)
                for first in range(0, len(group), size)
            ]
    return units


class Sweep:
    """The trials of a folder, on a data set.

    Args:
      trials: what is wanted.
      dataset: of all trials.
      store: where results go; its folder also holds networks, checkpoints and locks.
      options: how to go about it.
    """

    def __init__(
        self, trials: Sequence[Trial], dataset: Dataset, store: Store, options: Options = Options()
    ) -> None:
        """Cut what is not done into units; on a CPU nothing is compiled yet."""
        self._dataset, self._store, self._options = dataset, store, options
        self._trainers: dict[Trial, Trainer] = {}
        finished = store.names()
        left = [trial for trial in trials if trial.name not in finished]
        self._units = units_of(left, lambda trial: self._path(trial).exists(), self._width)
        self.trials_left = len(left)
        self.training_seconds = 0.0

    @property
    def steps_left(self) -> int:
        """How many steps of single networks are to do, those in checkpoints included."""
        return sum(unit.steps * len(unit.trials) for unit in self._units)

    def run(self, tick: Tick, say: Say) -> None:
        """Do every unit that is not done, by this process or another.

        Args:
          tick: called with numbers of steps of single networks, as they are done.
          say: called with a line per result.
        """
        todo = list(self._units)
        while todo:
            busy = []
            for unit in todo:
                if not self._ready(unit) or not self._work(unit, tick, say):
                    busy.append(unit)
            lost = self._lost(busy)
            if busy and len(busy) == len(todo) and not lost:
                time.sleep(1.0)
            todo = [*lost, *busy]

    def _lost(self, units: Sequence[Unit]) -> list[Unit]:
        """Return units that train what others wait for and nobody trains: somebody removed it."""
        waiting = [trial for unit in units if unit.retrains for trial in unit.trials]
        planned = {trial for unit in units if not unit.retrains for trial in unit.trials}
        found = units_of(
            waiting,
            lambda trial: network_of(trial) in planned or self._path(trial).exists(),
            self._width,
        )
        return [unit for unit in found if not unit.retrains]

    def _work(self, unit: Unit, tick: Tick, say: Say) -> bool:
        """Do a unit, unless another process has it; say whether it is done."""
        locks = self._store.folder / "locks"
        locks.mkdir(exist_ok=True)
        try:
            with FileLock(locks / f"{unit.name}.lock", timeout=0):
                if self._done(unit):
                    tick(unit.steps * len(unit.trials))
                elif not (self._retrain if unit.retrains else self._train)(unit, tick, say):
                    return False
                checkpoints.drop(self._checkpoint(unit))
        except Timeout:
            return False
        return True

    def _train(self, unit: Unit, tick: Tick, say: Say) -> bool:
        trainer = self._trainer(unit.trials[0])
        network = trainer.init(_stacked([key_of(trial, "init") for trial in unit.trials]))
        everything = jax.tree.map(lambda leaf: jnp.ones(len(unit.trials), bool), network.params)
        keys = _stacked([key_of(trial, "train") for trial in unit.trials])
        training = trainer.start(network, everything)
        training, evaluations, _ = self._advance(unit, trainer, training, keys, tick, say, every=0)
        host = jax.device_get(training.network)
        for lane, trial in enumerate(unit.trials):
            last = evaluations[-1][lane]._replace(step=-1)
            _save(jax.tree.map(lambda leaf: leaf[lane], host), last, self._path(trial))  # noqa: B023
        return True

    def _retrain(self, unit: Unit, tick: Tick, say: Say) -> bool:
        """Retrain a unit; or say no, where a network is not there to start from."""
        first = unit.trials[0]
        trainer = self._trainer(first)
        loaded = [found for trial in unit.trials if (found := self._load(trial, trainer, say))]
        if len(loaded) < len(unit.trials):
            return False
        starts = [
            start_of(trial, network, trainer)
            for trial, (network, _) in zip(unit.trials, loaded, strict=True)
        ]
        masks = [
            masks_of(trial, network, self._dataset)
            for trial, network in zip(unit.trials, starts, strict=True)
        ]
        starts = [
            repaired(trial, network, own, self._dataset)
            for trial, network, own in zip(unit.trials, starts, masks, strict=True)
        ]
        whole, small = _stacked(masks), None
        if is_shrunk(first):
            small = shrunk(first, self._dataset, starts[0], masks[0])
            trainer = applying(trainer, small)
            starts, masks = [as_network(small.variables)], [small.slice(masks[0])]
        training = trainer.start(_stacked(starts), _stacked(masks))
        keys = _stacked(list(map(retraining_key, unit.trials)))
        training, evaluations, seconds = self._advance(
            unit, trainer, training, keys, tick, say, first.evaluate_every
        )
        graph = graph_of(as_declared(first), self._dataset)
        module = module_of(first, self._dataset.classes)
        positions = costs.positions(module, self._dataset.train_x.shape[1:], graph)
        left = jax.device_get(whole if small else kept_masks(training))
        host = jax.device_get(training.network)
        results = []
        for lane, (trial, (_, trained)) in enumerate(zip(unit.trials, loaded, strict=True)):
            own = jax.tree.map(lambda leaf: leaf[lane], left)  # noqa: B023
            layers = counts(trial, self._dataset, own)
            done = costs.multiply_adds(positions, {layer.name: layer.kept for layer in layers})
            whole = costs.multiply_adds(positions, {layer.name: layer.size for layer in layers})
            result = Result(
                trial,
                kept=sum(layer.kept for layer in layers) / sum(layer.size for layer in layers),
                multiply_adds=done / whole,
                layers=layers,
                evaluations=(trained, *(moment[lane] for moment in evaluations)),
                seconds=seconds / len(unit.trials),
            )
            results.append(result)
            if self._options.keep:
                network, own = jax.tree.map(lambda leaf: leaf[lane], (host, left))  # noqa: B023
                variables = variables_of(network)
                variables = small.grow(variables) if small else variables
                lap_jax.save_pruned(
                    pruned_path(self._store.folder, trial),
                    lap_jax.apply_masks(variables, own), own,
                )  # fmt: skip
        self._store.add(results)
        for result in results:
            say(
                f"seed {result.trial.seed} {result.trial.way} at {result.left}: test error "
                f"{result.trained.test_error:.2%} trained, {result.pruned.test_error:.2%} pruned, "
                f"{result.retrained.test_error:.2%} retrained"
            )
        return True

    def _advance(
        self, unit: Unit, trainer: Trainer, training: Training, keys: jax.Array, tick: Tick,
        say: Say, every: int,
    ) -> tuple[Training, list[list[Evaluation]], float]:  # fmt: skip
        """Train a unit to its end; also return evaluations, by step and network, and seconds."""
        lanes, steps = len(unit.trials), unit.steps
        folder = self._checkpoint(unit)
        found = checkpoints.restore(
            folder, training, lambda path, error: self._set_aside(path, error, say)
        )
        if found:
            step, training, notes = found
            evaluations = [
                [Evaluation(*each) for each in moment] for moment in notes["evaluations"]
            ]
            seconds = notes["seconds"]
            tick(step * lanes)
        else:
            step, seconds = 0, 0.0
            evaluations = [self._evaluated(trainer, training, unit, 0)] if unit.retrains else []
        begun = saved = time.monotonic()
        count = 1
        while step < steps:
            count = min(count, steps - step, every - step % every if every else steps)
            before = time.monotonic()
            training = jax.block_until_ready(trainer.advance(training, keys, step, count))
            took = time.monotonic() - before
            self.training_seconds += took
            step += count
            tick(count * lanes)
            if every and step % every == 0 and step < steps:
                evaluations.append(self._evaluated(trainer, training, unit, step))
            count = max(int(count * min(SECONDS_PER_CALL / max(took, 1e-3), 8)), 1)
            now = time.monotonic()
            if now - saved >= self._options.checkpoint_seconds and step < steps:
                notes = {"evaluations": evaluations, "seconds": seconds + now - begun}
                checkpoints.save(folder, step, training, notes)
                saved = now
        if not unit.retrains or steps:
            evaluations.append(self._evaluated(trainer, training, unit, steps))
        return training, evaluations, seconds + time.monotonic() - begun

    def _evaluated(
        self, trainer: Trainer, training: Training, unit: Unit, step: int
    ) -> list[Evaluation]:
        before = time.monotonic()
        examples = unit.trials[0].evaluate_on
        train = trainer.errors(training, "train", examples)
        test = trainer.errors(training, "test", examples)
        self.training_seconds += time.monotonic() - before
        numbers = np.stack([*train, *test], 1).astype(float).tolist()
        return [Evaluation(step, *row) for row in numbers]

    def _trainer(self, trial: Trial) -> Trainer:
        program = program_of(trial)
        if program not in self._trainers:
            devices = self._options.devices
            self._trainers[program] = trainer_for(
                trial, self._dataset, list(devices) if devices else None
            )
        return self._trainers[program]

    def _width(self, trial: Trial) -> int:
        return self._options.width or self._trainer(trial).width

    def _done(self, unit: Unit) -> bool:
        if unit.retrains:
            return self._store.names().issuperset(trial.name for trial in unit.trials)
        return all(self._path(trial).exists() for trial in unit.trials)

    def _ready(self, unit: Unit) -> bool:
        return not unit.retrains or all(self._path(trial).exists() for trial in unit.trials)

    def _path(self, trial: Trial) -> Path:
        """Where the trained network of a trial is kept, with what it errs."""
        return network_path(self._store.folder, trial)

    def _checkpoint(self, unit: Unit) -> Path:
        return self._store.folder / "checkpoints" / unit.name

    def _load(self, trial: Trial, trainer: Trainer, say: Say) -> tuple[Network, Evaluation] | None:
        """Return a trained network and what it errs; None if it is gone, or damaged and now is."""
        path = self._path(trial)
        try:
            return load_network(path, trainer.shapes)
        except FileNotFoundError:
            return None
        except lap_jax.PruningError as error:
            self._set_aside(path, error, say)
            return None

    def _set_aside(self, path: Path, error: Exception, say: Say) -> None:
        place = set_aside(path, self._store.folder / "damaged")
        if place:
            why = (str(error) or type(error).__name__).splitlines()[0][:200]
            say(f"{path} is damaged, and now {place}; going on without it: {why}")


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _save(network: Network, errors: Evaluation, path: Path) -> None:
    lap_jax.save_pruned(path, _tree(network, np.array(errors, float)))


def network_path(folder: Path, trial: Trial) -> Path:
    """Return where a folder keeps the trained network of a trial."""
    return folder / f"network-{network_of(trial).name}.safetensors"


def pruned_path(folder: Path, trial: Trial) -> Path:
    """Return where a folder keeps the retrained network of a trial, if it does."""
    return folder / f"pruned-{trial.name}.safetensors"


def load_network(path: Path, shapes: Network) -> tuple[Network, Evaluation]:
    """Return a trained network and what it errs.

    Raises:
      PruningError: if the file is damaged, or of another network.
      FileNotFoundError: if there is none.
    """
    tree, _ = lap_jax.load_pruned(path, _tree(shapes, np.zeros(len(Evaluation._fields))))
    step, *errors = tree["evaluation"].tolist()
    return Network(**tree["network"]), Evaluation(int(step), *errors)


def _tree(network: Network, errors: np.ndarray) -> Any:
    return {"network": network._asdict(), "evaluation": errors}

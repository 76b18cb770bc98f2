import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest

from experiments.data import Dataset
from experiments.running import checkpoints, training
from experiments.running import sweep as sweep_module
from experiments.running.sweep import Options, Sweep, units_of
from experiments.running.training import Trainer, Training
from experiments.running.trials import program_of, trainer_for
from experiments.store import Result, ResultsError, Store
from experiments.trial import Trial

ROOT = Path(__file__).parents[3]
TRIAL = Trial("linear", "none", "toy", "LAP", 4, 0, 20, 10, 16, 1e-2)
TRIALS = [
    replace(TRIAL, method=method, tau=tau, seed=seed)
    for seed in (0, 1)
    for method in ("MP", "RP", "LAP-backward-seq", "LAP shuffled")
    for tau in (2, 5)
] + [replace(TRIAL, method="unpruned", tau=0, seed=seed) for seed in (0, 1)]

Results = dict[Trial, Result]
Whole = tuple[Results, int]
"""Results of a sweep, without their times, and how many steps it took."""
Uninterrupted = tuple[Results, str, float, Path]
"""Results, table, seconds and folder of a sweep in a process of its own."""


@pytest.fixture(scope="module")
def toy() -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4, 4, 1)).astype(np.float32)
    y = (x.reshape(120, -1) @ rng.normal(size=(16, 3))).argmax(1).astype(np.int32)
    return Dataset("toy", x[:90], y[:90], x[90:], y[90:], 3)


@pytest.fixture(scope="module", autouse=True)
def one_trainer_per_program() -> Iterator[None]:
    """Compile each program once for all sweeps of this file, as one sweep does for its units."""
    known = {}

    def remembered(trial: Trial, dataset: Dataset, devices: list[Any] | None) -> Trainer:
        place = program_of(trial), dataset.name, tuple(devices or ())
        if place not in known:
            known[place] = trainer_for(trial, dataset, devices)
        return known[place]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_module, "trainer_for", remembered)
        yield


def options(**choices: Any) -> Options:
    return Options(**{"devices": tuple(jax.devices()[:2]), **choices})


def run(wanted: Sequence[Trial], dataset: Dataset, folder: Path, **choices: Any) -> Whole:
    store = Store(folder)
    ticks: list[int] = []
    sweep = Sweep(wanted, dataset, store, options(**choices))
    sweep.run(ticks.append, lambda _: None)
    return {result.trial: replace(result, seconds=0.0) for result in store.load()}, sum(ticks)


class Killed(BaseException):
    """What no handler of errors catches, as a signal is."""


def kill(
    wanted: Sequence[Trial], dataset: Dataset, folder: Path, ticks: int, **choices: Any
) -> None:
    """Run a sweep that is killed at its tick of this number, the first being 1."""
    seen = 0

    def tick(_: int) -> None:
        nonlocal seen
        seen += 1
        if seen == ticks:
            raise Killed

    with pytest.raises(Killed):
        Sweep(wanted, dataset, Store(folder), options(**choices)).run(tick, lambda _: None)


@pytest.fixture(scope="module")
def whole(toy: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return run(TRIALS, toy, tmp_path_factory.mktemp("whole"))


def test_all_trials_give_a_result_and_every_step_is_counted(
    whole: Whole, toy: Dataset, tmp_path: Path
) -> None:
    results, ticks = whole
    assert set(results) == set(TRIALS)
    sweep = Sweep(TRIALS, toy, Store(tmp_path), options())
    assert ticks == sweep.steps_left == 2 * 20 + 18 * 10


def test_what_is_done_is_not_done_again(whole: Whole, toy: Dataset, tmp_path: Path) -> None:
    run(TRIALS, toy, tmp_path)
    _, ticks = run(TRIALS, toy, tmp_path)
    assert ticks == 0
    _, ticks = run([*TRIALS, replace(TRIAL, tau=3)], toy, tmp_path)
    assert ticks == TRIAL.retrain_steps
    assert not list((tmp_path / "checkpoints").glob("*"))


@pytest.mark.parametrize("index", [1, 17])
def test_a_network_among_others_equals_its_run_alone(
    index: int, whole: Whole, toy: Dataset, tmp_path: Path
) -> None:
    alone, _ = run([TRIALS[index]], toy, tmp_path, width=1)
    one, other = alone[TRIALS[index]], whole[0][TRIALS[index]]
    assert one.kept == other.kept
    chex.assert_trees_all_close(one.evaluations, other.evaluations, rtol=1e-4)


@pytest.mark.parametrize("together", [True, False])
def test_networks_in_one_program_train_as_each_alone(
    together: bool, toy: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a `jax.vmap`, as on an accelerator, or one after the other, as on a CPU."""
    each = training._each
    monkeypatch.setattr(training, "_each", lambda _, *rest: each(together, *rest))
    ends = []
    # Any masks will do: every fifth weight stays.
    mask = {"kernel": np.arange(16_000).reshape(16, 1000) % 5 == 0, "bias": np.ones(1000, bool)}
    last = {"kernel": np.ones((1000, 3), bool), "bias": np.ones(3, bool)}
    for seeds in ([0, 1, 2], [0], [1], [2]):
        trainer = trainer_for(TRIAL, toy, jax.devices()[:1])
        network = trainer.init(jax.vmap(jax.random.key)(np.array(seeds)))
        one = {"Dense_0": mask, "Dense_1": last}
        masks = jax.tree.map(lambda leaf: np.stack([leaf] * len(seeds)), one)  # noqa: B023
        state = trainer.start(network, masks)
        keys = jax.vmap(jax.random.key)(np.array(seeds) + 10)
        ends.append(jax.device_get(trainer.advance(state, keys, 0, 25)))
    for lane, alone in enumerate(ends[1:]):
        same = jax.tree.map(lambda leaf: leaf[lane], ends[0])  # noqa: B023
        chex.assert_trees_all_close(
            same, jax.tree.map(lambda leaf: leaf[0], alone), rtol=1e-4, atol=1e-6
        )
        kernel = same.network.params["Dense_0"]["kernel"]
        assert (kernel != 0).sum() == round(0.2 * kernel.size)


def test_methods_of_a_seed_share_the_trained_network(whole: Whole) -> None:
    results, _ = whole
    for seed in (0, 1):
        assert len({r.trained for trial, r in results.items() if trial.seed == seed}) == 1


def test_kept_is_the_share_of_weights_that_the_level_leaves(whole: Whole) -> None:
    results, _ = whole
    sizes = {"first": 16 * 1000, "last": 1000 * 3}
    for trial, result in results.items():
        remaining = round(0.5**trial.tau * sizes["first"]) + round(0.75**trial.tau * sizes["last"])
        assert result.kept == result.multiply_adds == remaining / sum(sizes.values())
        assert [layer.name for layer in result.layers] == ["Dense_0", "Dense_1"]
        assert all((layer.effective or 0) <= layer.kept for layer in result.layers)


def test_the_control_is_not_pruned(whole: Whole) -> None:
    results, _ = whole
    control = results[TRIALS[-1]]
    assert control.kept == control.effective == 1
    assert control.pruned.test_error == control.trained.test_error
    assert control.retrained.step == 10


@pytest.mark.parametrize(
    ("stop_after", "checkpoint_seconds"), [(0, 60.0), (3, 0.0), (11, 0.0), (11, 60.0)]
)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    whole: Whole, toy: Dataset, tmp_path: Path, stop_after: int, checkpoint_seconds: float
) -> None:
    kill(TRIALS, toy, tmp_path, stop_after + 1, checkpoint_seconds=checkpoint_seconds)
    results, _ = run(TRIALS, toy, tmp_path)
    assert results == whole[0]
    assert not list(tmp_path.glob(".*"))


def test_checkpoints_spare_steps(
    toy: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [replace(TRIAL, train_steps=0, retrain_steps=40)]
    saves = []
    save = checkpoints.save

    def killing(folder: Path, step: int, *rest: Any) -> None:
        save(folder, step, *rest)
        saves.append(step)
        if len(saves) == 3:
            raise Killed

    monkeypatch.setattr(checkpoints, "save", killing)
    monkeypatch.setattr(sweep_module, "SECONDS_PER_CALL", 0.0)  # a checkpoint after every step
    with pytest.raises(Killed):
        run(wanted, toy, tmp_path, checkpoint_seconds=0.0)
    firsts = []
    advance = Trainer.advance

    def watched(
        self: Trainer, training: Training, keys: jax.Array, first: int, count: int
    ) -> Training:
        firsts.append(first)
        return advance(self, training, keys, first, count)

    monkeypatch.setattr(Trainer, "advance", watched)
    run(wanted, toy, tmp_path)
    assert firsts[0] == saves[-1] > 0


def test_a_learning_rate_that_falls_goes_on_where_it_was(
    toy: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [replace(TRIAL, decay="cosine", method=method) for method in ("MP", "LAP")]
    results, _ = run(wanted, toy, tmp_path / "whole")

    monkeypatch.setattr(sweep_module, "SECONDS_PER_CALL", 0.0)  # a checkpoint after every step
    for ticks in (9, 20):  # while training, and while retraining
        kill(wanted, toy, tmp_path / "killed", ticks, checkpoint_seconds=0.0)
    assert run(wanted, toy, tmp_path / "killed")[0] == results

    level = [replace(trial, decay="none") for trial in wanted]
    steady, _ = run(level, toy, tmp_path / "steady")
    for one, other in zip(results.values(), steady.values(), strict=True):
        assert one.trained.train_loss != other.trained.train_loss
        assert one.retrained.train_loss != other.retrained.train_loss


def test_units_hold_one_program_and_the_width(toy: Dataset) -> None:
    mixed = [*TRIALS, replace(TRIAL, schedule="gradual", cycles=3)]
    units = units_of(mixed, lambda _: False, lambda _: 3)
    retrain = [trial for unit in units if unit.retrains for trial in unit.trials]
    assert sorted(map(str, retrain)) == sorted(map(str, mixed))
    assert max(len(unit.trials) for unit in units) == 3
    assert sum(not unit.retrains for unit in units) == 1
    assert len({unit.name for unit in units}) == len(units)
    (alone,) = [unit for unit in units if unit.trials[0].schedule == "gradual" and unit.retrains]
    assert len(alone.trials) == 1


def test_evaluations_on_the_way(toy: Dataset, tmp_path: Path) -> None:
    trial = replace(TRIAL, evaluate_every=4, evaluate_on=17)
    results, _ = run([trial], toy, tmp_path)
    (result,) = results.values()
    assert [moment.step for moment in result.evaluations] == [-1, 0, 4, 8, 10]
    assert all(round(17 * moment.test_error, 6) % 1 == 0 for moment in result.evaluations)


def test_a_locked_database_is_an_error_that_loses_nothing(
    whole: Whole, toy: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    sweep = Sweep(TRIALS[:2], toy, store, options())
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, timeout: connect(path, timeout=0.1))
    with closing(connect(tmp_path / "results.sqlite")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ResultsError, match="locked"):
            sweep.run(lambda _: None, lambda _: None)
    monkeypatch.undo()
    results, _ = run(TRIALS[:2], toy, tmp_path)
    assert results == {trial: whole[0][trial] for trial in TRIALS[:2]}


@pytest.mark.parametrize("what", ["results", "checkpoint"])
def test_a_full_disk_is_an_error_that_loses_nothing(
    what: str, whole: Whole, toy: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    wanted = TRIALS[:2]
    place, name = (Store, "add") if what == "results" else (checkpoints, "save")
    write = getattr(place, name)

    def full(*arguments: Any) -> Any:
        monkeypatch.undo()  # once
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            return write(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(place, name, full)
    with pytest.raises((ResultsError, OSError)):
        run(wanted, toy, tmp_path, checkpoint_seconds=0.0)
    results, _ = run(wanted, toy, tmp_path, checkpoint_seconds=0.0)
    assert results == {trial: whole[0][trial] for trial in wanted}


@pytest.mark.parametrize("how", ["truncated", "emptied", "flipped", "removed"])
def test_a_damaged_network_is_set_aside_and_trained_again(
    how: str, whole: Whole, toy: Dataset, tmp_path: Path
) -> None:
    run(TRIALS[:1], toy, tmp_path)
    store = Store(tmp_path)
    said: list[str] = []
    sweep = Sweep(TRIALS[:2], toy, store, options())  # it sees the file, and then ...
    assert sweep.steps_left == TRIAL.retrain_steps
    network = sweep._path(TRIALS[0])
    content = bytearray(network.read_bytes())
    match how:
        case "truncated":
            network.write_bytes(content[:-7])
        case "emptied":
            network.write_bytes(b"")
        case "flipped":
            content[len(content) // 2] ^= 1
            network.write_bytes(content)
        case "removed":
            network.unlink()
    sweep.run(lambda _: None, said.append)
    results = {result.trial: replace(result, seconds=0.0) for result in store.load()}
    assert results == {trial: whole[0][trial] for trial in TRIALS[:2]}
    aside = [path.name for path in tmp_path.glob("damaged/*")]
    assert aside == ([network.name] if how != "removed" else [])
    assert sum("is damaged, and now" in line for line in said) == len(aside)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    whole: Whole, toy: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves: list[tuple[Path, int]] = []
    save = checkpoints.save

    def killing(folder: Path, step: int, *rest: Any) -> None:
        save(folder, step, *rest)
        saves.append((folder, step))
        if len(saves) == 2:
            raise Killed

    monkeypatch.setattr(checkpoints, "save", killing)
    with pytest.raises(Killed):
        run(TRIALS[:2], toy, tmp_path, checkpoint_seconds=0.0)
    monkeypatch.undo()
    (_, before), (folder, last) = saves
    for file in (folder / str(last) / "notes").rglob("*"):
        file.write_bytes(b"")
    sweep = Sweep(TRIALS[:2], toy, Store(tmp_path), options())
    ticks: list[int] = []
    said: list[str] = []
    sweep.run(ticks.append, said.append)
    assert ticks[0] == before
    assert f"damaged, and now {tmp_path / 'damaged' / str(last)}" in said[0]
    results = {r.trial: replace(r, seconds=0.0) for r in Store(tmp_path).load()}
    assert results == {trial: whole[0][trial] for trial in TRIALS[:2]}


@pytest.mark.parametrize(
    "schedule",
    ["rewind", *(pytest.param(name, marks=pytest.mark.slow) for name in ("iterative", "gradual"))],
)
def test_schedules_end_at_their_level_and_resume(
    schedule: str, toy: Dataset, tmp_path: Path
) -> None:
    wanted = [
        replace(TRIAL, method=method, seed=seed, schedule=schedule, cycles=3, retrain_steps=16)
        for method in ("MP", "RP")
        for seed in (0, 1)
    ]
    results, _ = run(wanted, toy, tmp_path / "whole")
    sizes = (16 * 1000, 1000 * 3)
    kept = round(0.5**4 * sizes[0]) + round(0.75**4 * sizes[1])
    assert [result.kept for result in results.values()] == [kept / sum(sizes)] * 4

    kill(wanted, toy, tmp_path / "killed", ticks=6, checkpoint_seconds=0.0)
    assert run(wanted, toy, tmp_path / "killed")[0] == results


def test_half_precision_computes_in_half_and_keeps_whole_parameters(
    toy: Dataset, tmp_path: Path
) -> None:
    half = replace(TRIAL, dtype="bfloat16")
    results, _ = run([TRIAL, half], toy, tmp_path)
    assert results[half].retrained != results[TRIAL].retrained
    assert results[half].retrained.test_loss == pytest.approx(
        results[TRIAL].retrained.test_loss, rel=0.2
    )
    trainer = trainer_for(half, toy, jax.devices()[:1])
    network = trainer.init(jax.random.split(jax.random.key(0), 1))
    chex.assert_type(jax.tree.leaves(network), np.float32)


FLAGS = (
    *("run", "--model", "linear", "--methods", "MP", "LAP", "--taus", "3", "5", "--seeds", "2"),
    *("--train-steps", "400", "--retrain-steps", "300", "--checkpoint-seconds", "0.2"),
)


def start(out: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    return subprocess.Popen(
        [sys.executable, "-m", "experiments", *FLAGS, "--out", str(out)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def outcome(folder: Path) -> Results:
    return {r.trial: replace(r, seconds=0.0) for r in Store(folder).load()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    folder = tmp_path_factory.mktemp("uninterrupted")
    before = time.monotonic()
    with start(folder) as process:
        _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    seconds = time.monotonic() - before
    return outcome(folder), (folder / "table.md").read_text(), seconds, folder


def killed_and_resumed(folder: Path, kills: int, seconds: float, seed: int) -> int:
    """Kill a sweep at random moments of its life, then let it end."""
    moments, survived = random.Random(seed), 0
    for _ in range(kills):
        with start(folder) as process:
            time.sleep(moments.uniform(0.3, 1.0) * seconds)
            survived += process.poll() == 0
            process.send_signal(signal.SIGKILL)
            process.communicate()
    with start(folder) as process:
        _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return survived


def test_a_killed_sweep_ends_as_one_that_was_not(
    uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    results, table, seconds, _ = uninterrupted
    killed_and_resumed(tmp_path, 2, seconds, seed=0)
    assert outcome(tmp_path) == results
    assert (tmp_path / "table.md").read_text() == table


@pytest.mark.slow
def test_thirty_kills_change_nothing(uninterrupted: Uninterrupted, tmp_path: Path) -> None:
    results, table, seconds, _ = uninterrupted
    done = 0
    for number in range(10):
        folder = tmp_path / str(number)
        done += killed_and_resumed(folder, 3, seconds, seed=number)
        assert outcome(folder) == results
        assert (folder / "table.md").read_text() == table
    assert done < 15  # most were killed before their end


def test_two_processes_share_a_sweep(uninterrupted: Uninterrupted, tmp_path: Path) -> None:
    results, table, *_ = uninterrupted
    processes = [start(tmp_path), start(tmp_path)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outcome(tmp_path) == results
    assert (tmp_path / "table.md").read_text() == table
    said = [output for output, _ in outputs]
    lines = [line for output in said for line in output.splitlines() if line.startswith("seed ")]
    assert len(lines) == len(set(lines)) == 10  # no cell was done twice


def test_the_database_has_a_row_per_cell_and_evaluation(uninterrupted: Uninterrupted) -> None:
    folder = uninterrupted[-1]
    with closing(sqlite3.connect(folder / "results.sqlite")) as connection:
        cells = connection.execute("SELECT trial, made_with FROM cells").fetchall()
        rows = connection.execute("SELECT count(*) FROM evaluations").fetchone()
    assert len(cells) == 10
    assert rows == (10 * 3,)
    assert {"jax", "device", "commit"} <= set(json.loads(cells[0][1]))

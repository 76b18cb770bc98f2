from dataclasses import replace

import numpy as np
import pytest

import lap_jax
from experiments import trials
from experiments.datasets import Dataset
from experiments.results import Store, Trial

TRIAL = Trial("linear", "none", "toy", "LAP", 4, 0, 20, 10, 16, 1e-2)
TRIALS = [
    replace(TRIAL, method=method, tau=tau, seed=seed)
    for seed in (0, 1)
    for method in ("MP", "RP", "LAP-backward-seq")
    for tau in (2, 5)
]


@pytest.fixture(scope="module")
def toy():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4, 4, 1)).astype(np.float32)
    y = (x.reshape(120, -1) @ rng.normal(size=(16, 3))).argmax(1).astype(np.int32)
    return Dataset("toy", x[:90], y[:90], x[90:], y[90:], 3)


def run(wanted, dataset, folder):
    store, ticks = Store(folder), []
    list(trials.run(trials.pending(wanted, store), dataset, store, ticks.append))
    return {result.trial: replace(result, seconds=0.0) for result in store.load()}, sum(ticks)


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    return run(TRIALS, toy, tmp_path_factory.mktemp("whole"))


def test_all_trials_give_a_result_and_every_step_is_counted(whole, toy, tmp_path):
    results, ticks = whole
    assert list(results) == TRIALS
    assert ticks == trials.steps_to_do(TRIALS, Store(tmp_path)) == 2 * 20 + 12 * 10


def test_a_result_does_not_depend_on_the_other_trials(whole, toy, tmp_path):
    results, _ = whole
    alone, _ = run([TRIALS[-1]], toy, tmp_path)
    assert alone[TRIALS[-1]] == results[TRIALS[-1]]


def test_methods_of_a_seed_share_the_trained_network(whole):
    results, _ = whole
    for seed in (0, 1):
        assert len({r.unpruned for trial, r in results.items() if trial.seed == seed}) == 1


def test_kept_is_the_share_of_weights_that_the_level_leaves(whole):
    results, _ = whole
    sizes = {"first": 16 * 1000, "last": 1000 * 3}
    for trial, result in results.items():
        remaining = round(0.5**trial.tau * sizes["first"]) + round(0.75**trial.tau * sizes["last"])
        assert result.kept == remaining / sum(sizes.values())


@pytest.mark.parametrize("stop_after", [0, 1, 7])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(whole, toy, tmp_path, stop_after):
    class Killed(BaseException):
        pass

    seen = 0

    def tick(_):
        nonlocal seen
        seen += 1
        if seen > stop_after:
            raise Killed

    store = Store(tmp_path)
    with pytest.raises(Killed):
        list(trials.run(TRIALS, toy, store, tick))
    results, _ = run(TRIALS, toy, tmp_path)
    assert results == whole[0]
    assert not list(tmp_path.glob(".*"))


def test_random_pruning_is_another_for_each_seed(toy, tmp_path, monkeypatch):
    seen = []
    make = lap_jax.lookahead_masks

    def watched(*args, **kwargs):
        seen.append(make(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(lap_jax, "lookahead_masks", watched)
    wanted = [replace(TRIAL, method="RP", tau=tau, seed=seed) for seed in (0, 1) for tau in (2, 4)]
    run(wanted, toy, tmp_path)
    first = [np.asarray(masks["Dense_0"]["kernel"]) for masks in seen]
    assert (first[1] <= first[0]).all()  # a higher level keeps a part of what a lower one keeps
    assert (first[2] != first[0]).any()

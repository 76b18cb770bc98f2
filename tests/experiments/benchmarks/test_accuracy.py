"""The comparison of ways to prune: what it asks of a sweep, and that it ends with tables."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks.__main__ import main
from experiments.benchmarks.accuracy import SMALL, WAYS, Accuracy, accuracy, runs_of
from experiments.cli.wanted import trials_of
from experiments.data import load
from experiments.networks import MODELS
from experiments.networks.charlm import CharLM
from experiments.networks.vit import ViT
from experiments.running.sweep import Sweep
from experiments.running.trials import trainer_for
from experiments.store import Store


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Accuracy:
    """A command that takes seconds: digits, three steps, networks of a few neurons."""
    for name, build in {
        "vit": lambda classes, _: ViT(classes, width=8, depth=1, heads=2, patch=8),
        "charlm": lambda classes, _: CharLM(classes, width=8, depth=1, heads=2),
    }.items():
        monkeypatch.setitem(MODELS, name, MODELS[name]._replace(build=build))
        monkeypatch.setitem(SMALL, name, SMALL[name]._replace(batch_size=4))
    return Accuracy(
        models=("vit",), ways=("MP", "LAP"), dataset="digits", images=64, evaluate_on=50,
        seeds=1, train_steps=3, retrain_steps=2, calibration=8, out=tmp_path,
    )  # fmt: skip


def test_every_row_is_a_trial_of_the_same_networks_batches_and_sparsity() -> None:
    for run in runs_of(Accuracy(calibration=64)):
        trials = trials_of(run)
        ways = [WAYS[way] for way in SMALL[run.model].ways]
        wanted = [f"{way} calibration=64" if "measured" in way else way for way in ways]
        assert [trial.way for trial in trials if trial.seed == 0] == wanted
        (same,) = {replace(trial.run, seed=0) for trial in trials}
        assert same.same_batches
        assert same.augment != MODELS[run.model].augment
        assert (same.divisor == 8) == (run.model in ("resnet18", "conv6", "vgg11"))
        assert {trial.sparsity for trial in trials} == {SMALL[run.model].sparsity}


def test_bits_per_character_of_a_guess(tiny: Accuracy) -> None:
    """Equal chances for 128 characters are seven bits."""
    (trial, *_) = trials_of(runs_of(replace(tiny, models=("charlm",)))[0])
    trainer = trainer_for(trial, load("python_reference", train_on=50), jax.devices()[:1])
    network = trainer.init(jax.random.key(0)[None])
    network.params["head"] = jax.tree.map(jnp.zeros_like, network.params["head"])
    everything = jax.tree.map(lambda leaf: jnp.ones(1, bool), network.params)
    (nats,) = trainer.errors(trainer.start(network, everything), "test").loss
    assert nats / math.log(2) == pytest.approx(7, abs=1e-4)


def test_what_is_done_is_not_done_again(
    tiny: Accuracy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracy(tiny)
    first = capsys.readouterr().out
    assert "trials: 2, to do: 2, 7 steps" in first
    assert "images of 16 x 16" in first
    assert "the same batches in every retraining of a network" in first
    assert "| LAP graph=traced |" in first
    results = Store(tiny.out).load()
    assert {result.kept for result in results} == {results[0].kept}

    monkeypatch.setattr(Sweep, "run", None)
    accuracy(tiny)
    again = capsys.readouterr().out
    assert "to do: 0, 0 steps" in again
    assert (tiny.out / "table.md").read_text() in again


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ways", "LAPP"], "unknown 'LAPP'; there are MP"),
        (["--seeds", "0"], "--seeds is 0: expected 1 or more"),
        (["--sparsity", "1.5"], "--sparsity is (1.5,): expected fractions between 0 and 1"),
        (["--models", "conv6"], "cifar10 needs --data-dir"),
    ],
)
def test_flags_that_do_not_fit(flags: list[str], message: str, capsys: Any, tmp_path: Path) -> None:
    assert main(["accuracy", *flags, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err

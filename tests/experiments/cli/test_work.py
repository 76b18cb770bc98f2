"""What is looked for before anything is trained, and what is told of work on the way."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.cli import work as module
from experiments.cli.commands import BadFlag, Run
from experiments.cli.wanted import trials_of
from experiments.cli.work import check, stored, work
from experiments.data import load
from experiments.data.source import Dataset
from experiments.running.status import status
from experiments.store import Evaluation, Result, Store
from experiments.trial import Trial

TRIAL = Trial("fcn", "relu", "digits", "LAP", 4, 0, 100, 50, 60, 1e-3)
MOMENTS = tuple(Evaluation(step, 0.1, 0.1, 0.1, 0.1) for step in (-1, 0, 50))


def result(trial: Trial) -> Result:
    return Result(trial, 0.06, None, (), MOMENTS, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1438}, "--batch-size is 1438: digits has 1437 examples"),
        ({"evaluate_on": 361}, "--evaluate-on is 361: digits has 360 examples to test on"),
        ({"tau": 100}, "--taus is 100: Dense_0 of fcn would keep none"),
        ({"tau": 20}, "--taus is 20: Dense_0 of fcn would keep none"),
        (
            {"sparsity": 1.0},
            "--sparsity is 1.0: Dense_0 of fcn would keep none",
        ),
    ],
)
def test_trials_that_the_data_cannot_serve_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    digits, bad = load("digits"), replace(TRIAL, **changes)
    check([TRIAL], digits)
    with pytest.raises(BadFlag) as caught:
        check([TRIAL, bad], digits)
    assert str(caught.value).startswith(message)


def test_a_folder_without_results_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadFlag, match=r"it holds no results\.sqlite"):
        stored(tmp_path)
    assert not list(tmp_path.iterdir())
    Store(tmp_path).add([])
    with pytest.raises(BadFlag, match=r"yet$"):
        stored(tmp_path)
    Store(tmp_path).add([result(TRIAL)])
    assert stored(tmp_path) == [result(TRIAL)]


def test_progress_is_written_down_now_and_then_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(module.time, "time", lambda: now)
    shown: list[int] = []

    def written() -> int:
        (file,) = (tmp_path / "progress").iterdir()
        return int(json.loads(file.read_text())["done"])

    tick = module._told(shown.append, tmp_path, 100)
    assert written() == 0
    for seconds, steps, wanted in ((1.0, 10, 0), (4.5, 10, 20), (1.0, 10, 20), (1.0, 70, 100)):
        now += seconds
        tick(steps)
        assert written() == wanted
    assert shown == [10, 10, 10, 70]


def test_work_that_is_done_is_shown_and_not_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "one_device_per_core", lambda: None)
    commands = [
        Run(methods=("MP", "LAP"), taus=(4, 5), seeds=1, activation=activation, control=False)
        for activation in ("relu", "tanh")
    ]
    wanted = [trial for command in commands for trial in trials_of(command)]
    Store(tmp_path).add([result(trial) for trial in wanted])
    work(commands, tmp_path)
    said = capsys.readouterr().out
    assert said.startswith("fcn (relu), fcn (tanh) on digits; trials: 8, to do: 0, 0 steps\n")
    assert said.count("| MP (baseline) |") >= 2
    assert status(tmp_path).startswith("8 of 8 cells done")


def test_a_level_that_whole_neurons_cannot_reach_is_refused() -> None:
    x = np.zeros((60, 12), np.int32)
    text = Dataset("text", x.astype(np.float32), x, x, x, 128)
    trial = Trial("charlm", "none", "text", "LAP", 0, 0, 9, 9, 60, 1e-3, sparsity=0.7)
    check([replace(trial, scope="neuron")], text)
    with pytest.raises(
        BadFlag, match=r"--sparsity is 0\.99, of 'LAP scope=neuron': the network has"
    ):
        check([replace(trial, scope="neuron", sparsity=0.99)], text)

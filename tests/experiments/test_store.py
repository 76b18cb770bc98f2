import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from experiments.cli.commands import Run
from experiments.cli.wanted import trials_of
from experiments.reporting.report import text
from experiments.reporting.reproduce import command_of
from experiments.store import Evaluation, LayerCount, Result, Store, by_run
from experiments.trial import UNPRUNED, Trial

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
TRIAL = Trial("fcn", "relu", "digits", "LAP", 4, 0, 100, 50, 60, 1.2e-3)
RESULT = Result(
    TRIAL,
    0.0625,
    None,
    (LayerCount("Dense_0", 100, 6, 10, 2),),
    (
        Evaluation(-1, 0.0, 0.1, 0.02, 0.2),
        Evaluation(0, 0.4, 1.0, 0.5, 1.1),
        Evaluation(50, 0.01, None, 0.03, None),
    ),
    1.5,
)


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    other = replace(RESULT, trial=replace(TRIAL, tau=5), kept=0.1)
    Store(tmp_path).add([RESULT])
    Store(tmp_path).add([other])
    assert Store(tmp_path).names() == {TRIAL.name, other.trial.name}
    assert Store(tmp_path).load() == [RESULT, other]


def test_a_trial_is_stored_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add([RESULT])
    again = replace(RESULT, kept=0.5, evaluations=RESULT.evaluations[:2])
    store.add([again])
    assert store.load() == [again]


def test_effective_weights_are_told_where_they_were_counted(tmp_path: Path) -> None:
    assert (RESULT.effective, RESULT.left) == (None, "6.25%")
    layers = (LayerCount("Dense_0", 100, 6, 10, 2, 3), LayerCount("Dense_1", 20, 2, 2, 0, 1))
    counted = replace(RESULT, layers=layers)
    Store(tmp_path).add([counted])
    assert Store(tmp_path).load() == [counted]
    assert (counted.effective, counted.left) == (0.5, "6.25% (50.0% effective)")


FOLDERS = sorted(RESULTS.glob("*/results.sqlite"))


@pytest.mark.parametrize("file", FOLDERS, ids=[file.parent.name for file in FOLDERS])
def test_committed_results_are_read_shown_and_gone_on_with(file: Path, tmp_path: Path) -> None:
    """Trials have gained fields since: names and commands of old results stay what they were."""
    shutil.copy(file, tmp_path)
    store = Store(tmp_path)
    results = store.load()
    assert {result.trial.name for result in results} == store.names()
    shown, ways = text(results), {each.trial.way for each in results} - {UNPRUNED}
    assert all(f"| {way} " in shown for way in ways)
    assert ("| MP (baseline) |" in shown) == ("MP" in ways)
    again = []
    for run in by_run(results):
        _, _, _, _, *flags = shlex.split(command_of(run))
        again += trials_of(tyro.cli(Run, args=flags))
    assert {trial.name for trial in again} >= store.names()

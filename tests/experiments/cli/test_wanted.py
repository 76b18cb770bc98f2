"""The trials that commands want."""

from typing import Any, cast

import pytest

from experiments.cli.commands import BadFlag, Paper, Run
from experiments.cli.wanted import trials_of
from experiments.networks import MODELS
from experiments.paper import TARGETS


def test_the_defaults_are_the_papers_settings() -> None:
    wanted = trials_of(Run(model="fcn", dataset="mnist"))
    control = [trial for trial in wanted if trial.method == "unpruned"]
    assert len(wanted) == 9 * 7 * 5 + 5
    assert len(control) == 5
    assert {trial.tau for trial in wanted if trial not in control} == set(range(4, 11))
    first = wanted[0]
    assert (first.train_steps, first.retrain_steps, first.batch_size) == (50_000, 50_000, 60)
    assert (first.learning_rate, first.activation) == (1.2e-3, "relu")
    assert trials_of(Run(model="linear"))[0].learning_rate == 3e-4


def test_a_method_named_twice_is_run_once() -> None:
    assert len(trials_of(Run(methods=("MP", "MP"), taus=(4, 4), seeds=1, control=False))) == 1


def test_every_figure_and_table_of_the_paper_has_its_trials() -> None:
    cells = {}
    for target in TARGETS:
        trials = [trial for run in Paper(cast(Any, target)).runs() for trial in trials_of(run)]
        cells[target] = sum(trial.method != "unpruned" for trial in trials)
        assert {trial.train_steps for trial in trials} <= {30_000, 35_000, 50_000, 60_000}
    assert cells == {
        "figure2": 2 * 7 * 5, "figure3": 3 * 2 * 7 * 5, "figure4": 2 * 7 * 5,
        "table1": 9 * 7 * 5, "table2": 9 * 7 * 5,
        "table3": 3 * 8 * 5, "table4": 3 * 8 * 5, "table5": 3 * 8 * 5, "table6": 3 * 8 * 5,
    }  # fmt: skip


def test_schedules_share_one_control() -> None:
    wanted = trials_of(Run(methods=("LAP",), taus=(4,), seeds=1, schedule=("gradual", "rewind")))
    told = [(trial.schedule, trial.method, trial.cycles) for trial in wanted]
    assert told == [("gradual", "LAP", 5), ("gradual", "unpruned", 5), ("rewind", "LAP", 5)]


def test_no_method_is_an_error() -> None:
    with pytest.raises(BadFlag, match="names no method"):
        trials_of(Run(methods=(), control=False))


def test_without_methods_the_control_alone_is_wanted() -> None:
    wanted = trials_of(Run(methods=(), seeds=2, retrain_steps=9))
    assert [(trial.method, trial.level, trial.seed) for trial in wanted] == [
        ("unpruned", 0, 0),
        ("unpruned", 0, 1),
    ]


@pytest.mark.parametrize(
    ("model", "widths", "match"),
    [("vgg11", (5, 5), "2 widths, where the network has 8"), ("vit", (5,), "takes no widths")],
)
def test_widths_that_do_not_fit_are_refused(
    model: str, widths: tuple[int, ...], match: str
) -> None:
    with pytest.raises(BadFlag, match=match):
        trials_of(Run(model=model, widths=widths))


@pytest.mark.parametrize(
    "way", ["LAP shuffled", "MP effective", "LAP lags", "LFP", "MP graph=traced"]
)
def test_what_says_nothing_of_whole_neurons_is_refused(way: str) -> None:
    with pytest.raises(BadFlag, match="whole neurons of the traced network go"):
        trials_of(Run(methods=(f"{way} scope=neuron",)))


def test_ways_and_fractions_are_fields_of_trials() -> None:
    ways = ("MP", "LAP graph=traced horizon=all", "LBP graph=traced measured=input calibration=8")
    wanted = trials_of(Run(methods=ways, sparsity=(0.5, 0.9), seeds=1, control=False))
    assert [(trial.way, trial.level) for trial in wanted] == [
        (way, level) for way in ways for level in (0.5, 0.9)
    ]
    both = trials_of(Run(methods=("MP",), sparsity=(0.5,), taus=(4,), seeds=1, control=False))
    assert [trial.level for trial in both] == [4, 0.5]


@pytest.mark.parametrize("model", MODELS)
def test_every_network_of_the_folder_has_trials(model: str) -> None:
    first = trials_of(Run(model=model, methods=("LAP",)))[0]
    assert first.name
    assert (first.model, first.dataset) == (model, MODELS[model].dataset)

import shlex

import pytest
import tyro

from experiments.cli.commands import Run
from experiments.cli.wanted import trials_of
from experiments.reporting.reproduce import command_of
from experiments.store import Result, by_run


@pytest.mark.parametrize(
    "run",
    [
        Run(),
        Run(methods=(), seeds=2, retrain_steps=9),
        Run(methods=("LAP", "MP", "LAP shuffled"), taus=(7, 4), seeds=2, control=False),
        Run(model="linear", dataset="mnist", train_steps=10, retrain_steps=5, learning_rate=1e-5),
        Run(decay="cosine", seeds=1, taus=(3,)),
        Run(model="fcn", activation="tanh", schedule=("one-shot", "rewind", "gradual"), cycles=3),
        Run(model="vgg11", dtype="bfloat16", evaluate_every=100, evaluate_on=500, batch_size=50),
    ],
)
def test_the_commands_of_a_folder_mean_the_same_trials(run: Run) -> None:
    wanted = trials_of(run)
    results = [Result(trial, 0.5, None, (), (), 1.0) for trial in wanted]
    again = []
    for each in by_run(results):
        program, _, module, name, *flags = shlex.split(command_of(each))
        assert (program, module, name) == ("python", "experiments", "run")
        again += trials_of(tyro.cli(Run, args=flags))
    assert set(again) == set(wanted)
    assert len(again) == len(wanted)


def test_data_that_is_read_from_a_folder_needs_one() -> None:
    result = Result(trials_of(Run(model="vgg11"))[0], 0.5, None, (), (), 1.0)
    assert "--data-dir DIR" in command_of([result])

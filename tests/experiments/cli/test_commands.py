"""What the command line takes: flags of `paper` are those of `run`, names are of the folders."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

import pytest
import tyro

from experiments.cli.commands import Paper, Prepare, Run
from experiments.data import SOURCES
from experiments.networks import MODELS
from experiments.paper import TARGETS


def test_what_paper_is_told_reaches_every_network_of_the_target() -> None:
    told: dict[str, Any] = {
        "data_dir": Path("data"), "taus": (4,), "seeds": 2, "train_steps": 7, "retrain_steps": 3,
        "dtype": "bfloat16", "evaluate_every": 2, "evaluate_on": 50, "width": 4,
        "checkpoint_seconds": 9.0,
    }  # fmt: skip
    assert {field.name for field in fields(Paper)} == {*told, "methods", "target", "out"}
    runs = Paper("figure3", **told).runs()
    assert [run.activation for run in runs] == ["sigmoid", "tanh", "relu"]
    for run in runs:
        assert asdict(run).items() >= told.items()


@pytest.mark.parametrize("target", TARGETS)
def test_methods_are_the_targets_own_unless_others_are_named(target: str) -> None:
    name = cast(Any, target)
    assert [run.methods for run in Paper(name).runs()] == [
        each["methods"] for each in TARGETS[target]
    ]
    assert {run.methods for run in Paper(name, methods=("RP",)).runs()} == {("RP",)}


def test_flags_become_the_fields_of_their_names() -> None:
    flags = "--methods MP LAP --taus 4 7 --no-control --side 16 --schedule rewind gradual"
    assert tyro.cli(Run, args=flags.split()) == Run(
        methods=("MP", "LAP"), taus=(4, 7), control=False, side=16, schedule=("rewind", "gradual")
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dataset", SOURCES)
def test_every_network_and_data_set_of_the_folders_can_be_named(model: str, dataset: str) -> None:
    run = tyro.cli(Run, args=["--model", model, "--dataset", dataset])
    assert (run.model, run.dataset) == (model, dataset)


def test_other_names_are_refused_and_the_known_ones_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command, args, known in (
        (Run, ["--model", "vgg12"], "vgg11"),
        (Prepare, ["digits", "--data-dir", "x"], "fashion_mnist"),  # it needs no preparation
    ):
        with pytest.raises(SystemExit):
            tyro.cli(command, args=args)
        assert known in capsys.readouterr().err

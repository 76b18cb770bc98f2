import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from experiments.__main__ import main
from experiments.cli.commands import BadFlag, Paper, Run
from experiments.cli.wanted import trials_of
from experiments.paper import TARGETS
from experiments.store import Evaluation, Result, Store
from experiments.trial import Trial

ROOT = Path(__file__).parents[3]


def made_up(trial, error):
    steps = enumerate((0.02, 0.5, error), -1)
    return Result(
        trial, 0.06, None, (), tuple(Evaluation(i, 0.0, 0.1, e, 0.2) for i, e in steps), 1
    )


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_run_show_and_plot_on_digits(tmp_path):
    out = tmp_path / "run"
    flags = [
        *("run", "--model", "linear", "--methods", "MP", "LAP", "--taus", "4", "7"),
        *("--seeds", "2", "--train-steps", "30", "--retrain-steps", "10", "--out", out),
    ]
    first = command(*flags)
    assert first.returncode == 0, first.stderr
    assert "trials: 10, to do: 10, 160 steps" in first.stdout
    assert "| MP (baseline) |" in first.stdout
    assert f"picture: {out / 'accuracy.png'}" in first.stdout
    assert "LAP errs less than MP at" in first.stdout.splitlines()[-1]
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "10 of 10 cells done" in command("status", out).stdout
    table = (out / "table.md").read_text()
    assert table in first.stdout

    again = command(*flags)
    assert "to do: 0, 0 steps" in again.stdout
    assert table in again.stdout

    written = {path.name for path in out.iterdir()}
    assert {"index.html", "tables.tex", "accuracy.svg", "gap.png", "layers.png"} <= written
    (out / "index.html").unlink()
    assert table in command("show", out).stdout
    assert command("plot", out).returncode == 0
    assert (out / "index.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--methods", "LPA"], "unknown method 'LPA'; nearest: LFP, LBP, LAP"),
        (["run", "--taus", "-1"], "--taus is (-1,): expected levels of 0 or more"),
        (["run", "--seeds", "0"], "--seeds is 0: expected 1 or more"),
        (["run", "--retrain-steps", "-5"], "--retrain-steps is -5: expected 0 or more"),
        (["run", "--batch-size", "0"], "--batch-size is 0: expected 1 or more"),
        (["run", "--batch-size", "5000"], "--batch-size is 5000: digits has 1437 examples"),
        (["run", "--learning-rate", "0"], "--learning-rate is 0.0: expected a positive number"),
        (["run", "--cycles", "0"], "--cycles is 0: expected 1 or more"),
        (["run", "--evaluate-on", "5000"], "--evaluate-on is 5000: digits has 360 examples"),
        (["run", "--model", "conv6", "--dataset", "digits"], "conv6 reads images of 32 x 32"),
        (
            ["run", "--schedule", "gradual", "--methods", "LAP shuffled"],
            "'LAP shuffled' goes with --schedule one-shot alone",
        ),
        (["run", "--dataset", "mnist"], "mnist needs --data-dir"),
        (["paper", "table2"], "cifar10 needs --data-dir"),
        (["status", "nowhere"], "no sweep in nowhere"),
        (["show", "nowhere"], "no results in nowhere"),
        (
            ["prepare", "mnist", "--files", "nowhere", "--data-dir", "x"],
            "nowhere lacks train-images",
        ),
    ],
)
def test_bad_input_gets_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_defaults_are_the_papers_settings():
    wanted = trials_of(Run(model="fcn", dataset="mnist"))
    control = [trial for trial in wanted if trial.method == "unpruned"]
    assert len(wanted) == 9 * 7 * 5 + 5
    assert len(control) == 5
    assert {trial.tau for trial in wanted if trial not in control} == set(range(4, 11))
    first = wanted[0]
    assert (first.train_steps, first.retrain_steps, first.batch_size) == (50_000, 50_000, 60)
    assert (first.learning_rate, first.activation) == (1.2e-3, "relu")
    assert trials_of(Run(model="linear"))[0].learning_rate == 3e-4


def test_a_method_named_twice_is_run_once():
    assert len(trials_of(Run(methods=("MP", "MP"), taus=(4, 4), seeds=1, control=False))) == 1


def test_every_figure_and_table_of_the_paper_has_its_trials():
    cells = {}
    for target in TARGETS:
        trials = [trial for run in Paper(target).runs() for trial in trials_of(run)]
        cells[target] = sum(trial.method != "unpruned" for trial in trials)
        assert {trial.train_steps for trial in trials} <= {30_000, 35_000, 50_000, 60_000}
    assert cells == {
        "figure2": 2 * 7 * 5, "figure3": 3 * 2 * 7 * 5, "figure4": 2 * 7 * 5,
        "table1": 9 * 7 * 5, "table2": 9 * 7 * 5,
        "table3": 3 * 8 * 5, "table4": 3 * 8 * 5, "table5": 3 * 8 * 5, "table6": 3 * 8 * 5,
    }  # fmt: skip


def test_schedules_share_one_control():
    wanted = trials_of(Run(methods=("LAP",), taus=(4,), seeds=1, schedule=("gradual", "rewind")))
    told = [(trial.schedule, trial.method, trial.cycles) for trial in wanted]
    assert told == [("gradual", "LAP", 5), ("gradual", "unpruned", 5), ("rewind", "LAP", 5)]


def test_no_method_is_an_error():
    with pytest.raises(BadFlag, match="names no method"):
        trials_of(Run(methods=()))


def test_a_folder_of_two_settings_shows_and_draws_both(capsys, tmp_path):
    for steps, error in ((5, 0.1), (7, 0.9)):
        trial = Trial("fcn", "relu", "digits", "MP", 4, 0, steps, 5, 60, 1e-3)
        Store(tmp_path).add([made_up(trial, error)])
    assert main(["show", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "| MP (baseline) | 10.00 |" in shown
    assert "| MP (baseline) | 90.00 |" in shown
    assert main(["plot", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.glob("accuracy*.png")} == {
        "accuracy-1.png",
        "accuracy-2.png",
    }


@pytest.mark.parametrize("command", ["run", "show", "plot"])
def test_a_file_that_holds_no_results_is_left_alone(command, capsys, tmp_path):
    file = tmp_path / "results.sqlite"
    file.write_bytes(b"something else entirely " * 100)
    arguments = ["run", "--out", str(tmp_path)] if command == "run" else [command, str(tmp_path)]
    assert main(arguments) == 2
    assert f"error: {file}: file is not a database" in capsys.readouterr().err
    assert file.read_bytes() == b"something else entirely " * 100


def test_results_of_another_version_say_so(capsys, tmp_path):
    trial = Trial("fcn", "relu", "digits", "MP", 4, 0, 5, 5, 60, 1e-3)
    Store(tmp_path).add([made_up(trial, 0.1)])
    with closing(sqlite3.connect(tmp_path / "results.sqlite")) as connection, connection:
        connection.execute("""UPDATE cells SET trial = '{"momentum": 0.9}'""")
    assert main(["show", str(tmp_path)]) == 2
    assert "another version" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert main(["run", "--out", str(tmp_path / "file" / "run")]) == 2
    assert "name another folder" in capsys.readouterr().err


@pytest.mark.parametrize("moment", [0.0, 0.5, 4.0])
def test_an_interrupted_process_exits_with_the_status_of_sigint(tmp_path, moment):
    """XLA computes on threads of its own: taken down in the middle, the process would crash."""
    run = [sys.executable, "-u", "-m", "experiments", "run", "--methods", "MP", "--out", tmp_path]
    with subprocess.Popen(
        run, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert "to do" in process.stdout.readline()
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on where this one stopped" in error

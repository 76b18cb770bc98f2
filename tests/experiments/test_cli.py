import subprocess
import sys
from pathlib import Path

import pytest

from experiments.__main__ import BadFlag, Run, main, trials_of

ROOT = Path(__file__).parents[2]


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
    assert "8 trials (2 methods, 2 levels, 2 seeds), 8 to do, 140 steps" in first.stdout
    assert "| MP (baseline) |" in first.stdout
    assert f"picture: {out / 'figure.png'}" in first.stdout
    assert "LAP errs less than MP at" in first.stdout.splitlines()[-1]
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    table = (out / "table.md").read_text()
    assert table in first.stdout

    again = command(*flags)
    assert "0 to do, 0 steps" in again.stdout
    assert table in again.stdout

    (out / "figure.png").unlink()
    assert table in command("show", out).stdout
    assert command("plot", out).returncode == 0
    assert (out / "figure.png").exists()


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
        (["run", "--dataset", "mnist"], "mnist needs --data-dir"),
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
    assert len(wanted) == 9 * 7 * 5
    assert {trial.tau for trial in wanted} == set(range(4, 11))
    first = wanted[0]
    assert (first.train_steps, first.retrain_steps, first.batch_size) == (50_000, 50_000, 60)
    assert (first.learning_rate, first.activation) == (1.2e-3, "relu")
    assert trials_of(Run(model="linear"))[0].learning_rate == 3e-4


def test_a_method_named_twice_is_run_once():
    assert len(trials_of(Run(methods=("MP", "MP"), taus=(4, 4), seeds=1))) == 1


def test_no_method_is_an_error():
    with pytest.raises(BadFlag, match="names no method"):
        trials_of(Run(methods=()))


def test_interrupt_says_how_to_go_on(monkeypatch, capsys, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.datasets.load", interrupted)
    assert main(["run", "--out", str(tmp_path / "run")]) == 130
    assert "goes on where this one stopped" in capsys.readouterr().err

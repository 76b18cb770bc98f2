import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from experiments.__main__ import main
from experiments.store import Evaluation, Result, Store
from experiments.trial import Trial

ROOT = Path(__file__).parents[2]


def made_up(trial: Trial, error: float) -> Result:
    steps = enumerate((0.02, 0.5, error), -1)
    return Result(
        trial, 0.06, None, (), tuple(Evaluation(i, 0.0, 0.1, e, 0.2) for i, e in steps), 1
    )


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "experiments", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    Store(tmp_path).add(
        [made_up(Trial("fcn", "relu", "digits", "MP", 4, 0, 100, 50, 60, 1e-3), 0.1)]
    )
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", "experiments", "show", str(tmp_path)],
        cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, timeout=300,
    )  # fmt: skip
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_run_show_and_plot_on_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    flags = [
        *("run", "--model", "linear", "--methods", "MP", "LAP", "--taus", "4", "7"),
        *("--seeds", "2", "--train-steps", "30", "--retrain-steps", "10", "--out", str(out)),
    ]
    first = command(*flags)
    assert first.returncode == 0, first.stderr
    assert "trials: 10, to do: 10, 160 steps" in first.stdout
    assert "| MP (baseline) |" in first.stdout
    assert f"picture: {out / 'accuracy.png'}" in first.stdout
    assert "LAP errs less than MP at" in first.stdout.splitlines()[-1]
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    table = (out / "table.md").read_text()
    assert table in first.stdout

    def said(*arguments: object) -> str:
        assert main(list(map(str, arguments))) == 0
        return capsys.readouterr().out

    assert "10 of 10 cells done" in said("status", out)
    again = said(*flags)
    assert "to do: 0, 0 steps" in again
    assert table in again

    written = {path.name for path in out.iterdir()}
    assert {"index.html", "tables.tex", "accuracy.svg", "gap.png", "layers.png"} <= written
    (out / "index.html").unlink()
    assert table in said("show", out)
    said("plot", out)
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
        (
            ["run", "--taus", "100"],
            "--taus is 100: Dense_0 of fcn would keep none",
        ),
        (["run", "--sparsity", "1"], "--sparsity is (1.0,): expected fractions between 0 and 1"),
        (["run", "--methods", "LAP lag"], "'lag' in 'LAP lag': expected graph=declared|"),
        (["run", "--methods", "LAP measured=input"], "needs graph=traced"),
        (["run", "--methods", "LAP graph=identity"], "fcn has no shortcuts"),
        (["run", "--model", "charlm", "--dataset", "digits"], "charlm reads text"),
        (["run", "--model", "fcn", "--dataset", "python_reference"], "fcn reads images"),
        (["run", "--model", "vgg11", "--side", "16"], "vgg11 reads images of 32 x 32 or more"),
        (
            ["run", "--schedule", "gradual", "--methods", "LAP graph=traced measured=active"],
            "goes with --schedule one-shot alone",
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
def test_bad_input_gets_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_of_two_settings_shows_and_draws_both(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
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
def test_a_file_that_holds_no_results_is_left_alone(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "results.sqlite"
    file.write_bytes(b"something else entirely " * 100)
    arguments = ["run", "--out", str(tmp_path)] if command == "run" else [command, str(tmp_path)]
    assert main(arguments) == 2
    assert f"error: {file}: file is not a database" in capsys.readouterr().err
    assert file.read_bytes() == b"something else entirely " * 100


def test_results_of_another_version_say_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trial = Trial("fcn", "relu", "digits", "MP", 4, 0, 5, 5, 60, 1e-3)
    Store(tmp_path).add([made_up(trial, 0.1)])
    with closing(sqlite3.connect(tmp_path / "results.sqlite")) as connection, connection:
        connection.execute("""UPDATE cells SET trial = '{"momentum": 0.9}'""")
    assert main(["show", str(tmp_path)]) == 2
    assert "another version" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert main(["run", "--out", str(tmp_path / "file" / "run")]) == 2
    assert "name another folder" in capsys.readouterr().err


@pytest.mark.parametrize("moment", [0.0, 4.0])
def test_an_interrupted_process_exits_with_the_status_of_sigint(
    tmp_path: Path, moment: float
) -> None:
    """XLA computes on threads of its own: taken down in the middle, the process would crash."""
    flags = ["--methods", "MP", "--out", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "experiments", "run", *flags],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert "to do" in process.stdout.readline()
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on where this one stopped" in error

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.__main__ import main
from experiments.running.status import status, write_plan, write_progress
from experiments.store import Evaluation, Result, ResultsError, Store
from experiments.trial import Trial

TRIALS = [
    Trial("fcn", "relu", "digits", method, tau, seed, 100, 50, 60, 1e-3)
    for method in ("MP", "LAP")
    for tau in (4, 5)
    for seed in (0, 1)
]


def result(trial: Trial) -> Result:
    errors = (-1, 0.02), (0, 0.5), (50, 0.1)
    moments = tuple(Evaluation(step, 0.0, None, error, None) for step, error in errors)
    return Result(trial, 0.5**trial.tau, None, (), moments, 1.0)


def said(folder: Path, pid: int | None = None, host: str | None = None, **news: float) -> str:
    """Let a process have written this news."""
    name = f"{host or socket.gethostname()}-{pid or os.getpid()}"
    (folder / "progress").mkdir(exist_ok=True)
    content = {"done": 250, "total": 1000, "started": time.time() - 50, "updated": time.time()}
    (folder / "progress" / f"{name}.json").write_text(json.dumps(content | news))
    return name


@pytest.fixture(scope="module")
def ended() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_sweep_that_has_no_result_yet_is_only_read(tmp_path: Path) -> None:
    write_plan(tmp_path, TRIALS)
    assert status(tmp_path).splitlines() == ["0 of 8 cells done", "  MP: 0 of 4", "  LAP: 0 of 4"]
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


def test_a_running_sweep_tells_cells_steps_eta_and_the_latest_results(tmp_path: Path) -> None:
    write_plan(tmp_path, TRIALS)
    Store(tmp_path).add([result(trial) for trial in TRIALS[:3]])
    write_progress(tmp_path, 250, 1000, time.time() - 50)
    lines = status(tmp_path, last=1).splitlines()
    assert lines[:3] == ["3 of 8 cells done", "  MP: 3 of 4", "  LAP: 0 of 4"]
    assert "250 of 1,000 steps, ETA 0:02:3" in lines[3]
    assert lines[4:] == ["seed 0 MP at 3.12%: test error 50.00% pruned, 10.00% retrained"]
    write_progress(tmp_path, 1000, 1000, time.time() - 50)
    assert "1,000 of 1,000 steps, finished" in status(tmp_path)


def test_silence_says_whether_the_process_is_there(tmp_path: Path, ended: int) -> None:
    write_plan(tmp_path, TRIALS)
    said(tmp_path, ended)  # news a moment old: it may be another machine's number
    assert "ETA" in status(tmp_path)
    name = said(tmp_path, ended, updated=time.time() - 500)
    assert f"process {name}: 250 of 1,000 steps, stopped: no news for 0:08:20" in status(tmp_path)
    said(tmp_path, updated=time.time() - 400)
    assert "still there: no news for 0:06:40" in status(tmp_path)
    said(tmp_path, 1, "elsewhere", updated=time.time() - 300)
    assert "stopped or stuck: no news for 0:05:00" in status(tmp_path)


def test_a_process_that_ended_says_nothing_beside_those_at_work(tmp_path: Path, ended: int) -> None:
    write_plan(tmp_path, TRIALS)
    said(tmp_path, ended, updated=time.time() - 500)
    names = [said(tmp_path), said(tmp_path, 1, "elsewhere")]
    told = [line for line in status(tmp_path).splitlines() if line.startswith("process")]
    assert sorted(line.split()[1].rstrip(":") for line in told) == sorted(names)


def test_a_later_command_adds_to_the_plan(tmp_path: Path) -> None:
    write_plan(tmp_path, TRIALS[:2])
    write_plan(tmp_path, TRIALS[1:4])
    assert status(tmp_path).startswith("0 of 4 cells done")


def test_without_a_plan_it_counts_what_is_there(tmp_path: Path) -> None:
    Store(tmp_path).add([result(trial) for trial in TRIALS[:2]])
    assert status(tmp_path).startswith("2 of 2 cells done; no plan says whether more are wanted")


def test_no_sweep_and_one_of_another_version_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert f"error: no sweep in {tmp_path}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    (tmp_path / "sweep.json").write_text('[{"momentum": 0.9}]')
    with pytest.raises(ResultsError, match="another version"):
        status(tmp_path)

"""The entry point: statuses, completion, help, and what happens without tyro."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lap_jax.cli import main as entry
from lap_jax.cli.main import main


def test_help_and_completion_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for name in ("inspect", "prune", "shrink", "diff", "--tyro-print-completion bash"):
        assert name in told
    for shell in ("bash", "zsh"):
        assert main(["--tyro-print-completion", shell]) == 0
        script = capsys.readouterr().out
        assert "lap-jax" in script
        assert "sparsity" in script


def test_without_tyro_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert main(["--help"]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"error: {entry.MISSING}\n")
    assert "pip install 'lap_jax[cli]'" in captured.err


def test_what_nobody_foresaw_is_one_line_and_a_traceback_with_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("lap_jax.cli.working.run", broken)
    assert main(["inspect", "x"]) == 2
    assert capsys.readouterr().err == "error: RuntimeError: two lines\n"
    assert main(["inspect", "x", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_interrupted_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lap_jax.cli.working.run", stop)
    assert main(["inspect", "x"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_python_m_is_the_same_and_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    """Processes, because a pipe and an entry point have no other proof."""
    save_file({"a": np.ones((2, 2))}, tmp_path / "x")
    command = [sys.executable, "-m", "lap_jax", "inspect"]
    closed = subprocess.Popen(
        [*command, str(tmp_path / "x")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert closed.stdout is not None
    closed.stdout.close()
    done = subprocess.run([*command, "nowhere"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: 'nowhere' is not there: expected a checkpoint, a file or a folder\n"
    )
    assert closed.stderr is not None
    assert (closed.stderr.read(), closed.wait()) == (b"", 0)
    closed.stderr.close()

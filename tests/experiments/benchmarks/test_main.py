"""The benchmarks' command line, on matrices of a few weights."""

import csv
from pathlib import Path

import pytest

from experiments.benchmarks.__main__ import main
from experiments.benchmarks.workloads import squares

TINY = squares(4096)._replace(name="tiny")


def test_the_command_writes_a_table_and_every_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("experiments.benchmarks.workloads.WORKLOADS", {"vgg19": lambda: TINY})
    monkeypatch.setattr("experiments.benchmarks.__main__.GROWTH", (256, 1024))
    flags = ["--workloads", "vgg19", "--rounds", "2", "--entries", "MP", "floor", "JaxPruner"]
    assert main(["masks", *flags, "--out", str(tmp_path)]) == 0
    text = (tmp_path / "masks.md").read_text()
    assert text in capsys.readouterr().out
    assert "needs --jaxpruner FOLDER" in text
    assert "| exponent |" in text
    rows = list(csv.DictReader((tmp_path / "masks.csv").open()))
    calls = [row["call"] for row in rows if (row["workload"], row["entry"]) == ("tiny", "MP")]
    assert calls == ["0", "1", "2"]
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_an_entry_with_a_typo(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["masks", "--entries", "numpy.partitoin", "--out", str(tmp_path)]) == 2
    assert "nearest: numpy.partition" in capsys.readouterr().err


def test_no_rounds_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["masks", "--rounds", "0", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "error: --rounds is 0: expected 1 or more\n"
    assert not (tmp_path / "out").exists()

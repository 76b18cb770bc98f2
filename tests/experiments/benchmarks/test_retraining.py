"""Time of retraining: what is timed trains alike, and what the table makes of it."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.benchmarks import retraining as module
from experiments.benchmarks.__main__ import main
from experiments.benchmarks.retraining import Retraining, Row, retraining, table
from experiments.data.source import Dataset


def images(count: int = 40) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 28, 28, 1)).astype(np.float32)
    return Dataset("mnist", x, np.arange(count, dtype=np.int32) % 10, x, np.zeros(count, int), 10)


@pytest.mark.slow
def test_every_way_is_timed_at_every_level_and_rows_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load", lambda *_: images())
    steps: list[int] = []
    real = module.stepping

    def counted(apply, optimizer):  # type: ignore[no-untyped-def]
        steps.append(1)
        return real(apply, optimizer)

    monkeypatch.setattr(module, "stepping", counted)
    command = Retraining(
        methods=("LAP",), levels=(12,), train_steps=3, batch=4, divisor=50, steps=1, rounds=2,
        out=tmp_path,
    )  # fmt: skip
    text = retraining(command)
    assert text == (tmp_path / "retraining.md").read_text()
    rows = [Row(**each) for each in json.loads((tmp_path / "retraining.json").read_text()).values()]
    assert [row.way for row in rows] == ["LAP", "LAP effective"]
    assert all(len(row.ratios) == 2 and min(row.ratios) > 0 for row in rows)
    assert rows[0].kept == rows[1].kept  # as many weights
    assert all(0 < row.parameters < 1 for row in rows)
    made = len(steps)
    assert retraining(command) == text
    assert len(steps) == made + 1  # the network is trained again, and nothing is timed


def test_the_median_of_the_rounds_is_shown() -> None:
    rows = [Row("LAP", 0.0084, 0.1234, 0.1, 20.0, (2.0, 9.0, 4.0))]
    text = table(Retraining(), rows)
    assert "| LAP | 0.84% | 12.3% | 10.0% | 20.0 | 4.0 | 2.0-9.0 |" in text
    assert jax.__version__ in text


def test_numbers_below_one_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retraining", "--rounds", "0"]) == 2
    assert "--rounds is 0: expected 1 or more" in capsys.readouterr().err

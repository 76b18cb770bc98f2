"""The benchmark of shrunk networks, on a sweep of seconds."""

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks.shrinking import (
    DENSE,
    Row,
    Shrink,
    figure,
    grouped,
    sentence,
    shrink,
    table,
    timed,
)
from experiments.data.source import Dataset
from experiments.running.sweep import Options, Sweep
from experiments.store import ResultsError, Store
from experiments.trial import Trial

TRIAL = Trial("fcn", "relu", "digits", "LAP-backward-seq", 6, 0, 5, 5, 8, 1e-2, divisor=25)


def row(way: str, seed: int, error: float, parameters: int) -> Row:
    return Row(way, 0.01, seed, error, error, 0.5, (3, 4), parameters, 1000, 0.2, 4000, 100, 300)


def test_rows_of_several_seeds_are_one_line() -> None:
    rows = [row("MP", 0, 0.1, 100), row("MP", 1, 0.2, 300), row(DENSE, 0, 0.3, 100)]
    assert [len(own) for own in grouped(rows).values()] == [2, 1]
    text = table(rows, {("MP", 0.01): {1: 2.5}}, Shrink(Path(), batches=(1, 60)), TRIAL)
    assert (
        "| MP | 1.00% | 2 | 15.00 ± 7.07 | 15.00 | 50.0% | 200 | 5.0 | 5.0 | 0.1 | 0.3 | 2.5 |  |"
        in text
    )
    assert f"| {DENSE} (3-4) |" in text
    rows.append(row("LAP", 0, 0.16, 50))
    assert sentence(rows, {("LAP", 0.01): {60: 3.0}}) == (
        "LAP at 1.00% of the weights errs 16.00%, 16.00% once it is shrunk, with 20.0 times fewer "
        "parameters and 3.0 times faster at batch 60 than the dense network (MP with as many "
        "weights: 5.0 times fewer parameters)."
    )
    drawn = figure(rows, {("MP", 0.01): {1: 2.5}}, {})
    assert [axes.get_xscale() for axes in drawn.axes] == ["log"] * 3


@pytest.mark.parametrize("most", [30, 700, 5_000_000])
def test_numbers_along_an_axis_keep_clear_of_each_other(most: int) -> None:
    rows = [row("MP", 0, 0.1, 10), row("LAP", 0, 0.2, most)]
    drawn = figure(rows, {}, {})
    drawn.draw_without_rendering()
    axis = drawn.axes[1].xaxis
    least, greatest = sorted(axis.get_view_interval())
    boxes = [
        tick.label1.get_window_extent()
        for tick in axis.get_major_ticks()
        if least <= tick.get_loc() <= greatest
    ]
    assert len(boxes) >= 2
    boxes.sort(key=lambda box: box.x0)
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def wait(seconds: float, times: int) -> None:
    time.sleep(seconds * times)


def test_calls_take_turns() -> None:
    found = timed({"a": (wait, 1e-3, 1), "b": (wait, 1e-3, 8)}, 3)
    assert found["b"] > found["a"] >= 1e-3


def test_a_sweep_is_shrunk_and_its_widths_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).normal(size=(40, 4, 4, 1)).astype(np.float32)
    y = (np.arange(40) % 10).astype(np.int32)
    toy = Dataset("digits", x, y, x, y, 10)
    monkeypatch.setattr("experiments.benchmarks.shrinking.load", lambda *_: toy)
    folder = tmp_path / "sweep"
    with pytest.raises(ResultsError, match="holds no pruned networks"):
        shrink(Shrink(folder, out=tmp_path / "out"))
    Sweep([TRIAL], toy, Store(folder), Options(width=1, keep=True)).run(
        lambda n: None, lambda line: None
    )
    command = Shrink(folder, batches=(2,), rounds=1, out=tmp_path / "out")
    text = shrink(command)
    assert "LAP-backward-seq |" in text
    assert DENSE in text
    (own,) = (
        row["widths"] for row in json.loads((tmp_path / "out/shrink.json").read_text()).values()
    )
    small, large = (
        sum(a * b for a, b in itertools.pairwise((16, *widths, 10))) for widths in (own, [20] * 4)
    )
    control = next(line for line in text.splitlines() if DENSE in line)
    assert control.split(" | ")[8] == f"{large / small:.1f}"
    assert (tmp_path / "out/shrink.png").stat().st_size > 10_000
    assert f"| {100 * Store(folder).load()[0].retrained.test_error:.2f} |" in text  # the same error
    even = replace(command, multiple_of=4, ways=("LAP-backward-seq",), control=())
    assert "multiples of 4" in shrink(even)
    rows = [
        row["widths"] for row in json.loads((tmp_path / "out/shrink.json").read_text()).values()
    ]
    assert any(width % 4 for width in rows[0])
    assert not any(width % 4 for width in rows[1])
    with pytest.raises(ResultsError, match="no pruned networks of MP"):
        shrink(replace(command, ways=("MP",)))
    for path in [*folder.glob("network-*"), *folder.glob("pruned-*")]:
        path.unlink()
    (tmp_path / "out/shrink.json").unlink()
    with pytest.raises(ResultsError, match="trained networks are needed"):
        shrink(command)

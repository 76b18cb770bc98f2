"""Progress: lines now and then where nobody looks at a terminal, a bar where somebody does."""

import sys

import pytest

from experiments.running.progress import clock, progress


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [(0, "0:00:00"), (59.4, "0:00:59"), (59.6, "0:01:00"), (3600, "1:00:00"),
     (100 * 3600 + 61, "100:01:01")],
)  # fmt: skip
def test_a_clock_has_hours_minutes_and_seconds(seconds: float, wanted: str) -> None:
    assert clock(seconds) == wanted


def test_a_line_comes_no_more_often_than_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter([100.0, 109.0, 120.0, 125.0, 130.0])
    monkeypatch.setattr("experiments.running.progress.time.monotonic", lambda: next(times))
    with progress(4000, "steps") as (tick, say):
        tick(500)
        assert capsys.readouterr().out == ""
        tick(500)  # a quarter in 20 seconds: 60 are left
        assert capsys.readouterr().out == "1,000 of 4,000 steps, ETA 0:01:00\n"
        say("a result")
        tick(1000)
        tick(2000)
    assert capsys.readouterr().out == "a result\n4,000 of 4,000 steps, ETA 0:00:00\n"


def test_a_terminal_has_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with progress(8, "steps") as (tick, say):
        tick(3)
        say("a result")
        tick(5)
    shown = capsys.readouterr().out
    assert "a result" in shown
    assert "8/8" in shown

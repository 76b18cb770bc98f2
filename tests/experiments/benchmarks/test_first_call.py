"""First calls: each in a process of its own, and a table of ratios."""

from pathlib import Path

import pytest

from experiments.benchmarks import first_call
from experiments.benchmarks.first_call import CASES, FirstCall


def test_ratios_are_those_of_medians() -> None:
    seconds = {case: [2.0, 1.0, 9.0] for case in CASES}
    seconds |= {f"before: {case}": [4.0] for case in CASES}
    seconds["64 layers, LAP"] = [5.0]
    rows = first_call.table(seconds).splitlines()
    assert "| 4 layers, MP | 2.00 (1.00 to 9.00) | 4.00 (4.00 to 4.00) | 0.50 |" in rows
    assert "| LAP | 2.50 | 1.00 |" in rows
    assert "| MP | 1.00 | 1.00 |" in rows


def test_without_another_checkout_its_columns_are_empty() -> None:
    rows = first_call.table({case: [2.0] for case in CASES}).splitlines()
    assert "| 4 layers, MP | 2.00 (2.00 to 2.00) |  |  |" in rows
    assert "| MP | 1.00 |  |" in rows


def test_a_process_tells_its_cpu_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_call, "CASES", {"4 layers, MP": CASES["4 layers, MP"]})
    monkeypatch.setattr(first_call, "METHODS", ())
    text = first_call.first_call(FirstCall(rounds=1, out=tmp_path), lambda _: None)
    assert (tmp_path / "first-call.md").read_text() == text
    row = next(line for line in text.splitlines() if line.startswith("| 4 layers, MP"))
    assert 0 < float(row.split("|")[2].split()[0]) < 600
    assert [path.name for path in tmp_path.iterdir()] == ["first-call.md"]


def test_a_case_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "lap_jax.py").write_text("raise SystemError('no such library')")
    with pytest.raises(ValueError, match="no such library"):
        first_call.first_call(FirstCall(rounds=1, before=tmp_path, out=tmp_path), lambda _: None)


def test_no_rounds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rounds is 0"):
        first_call.first_call(FirstCall(rounds=0, out=tmp_path))

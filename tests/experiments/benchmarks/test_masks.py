import pytest

from experiments.benchmarks.masks import Timing, exponent, table
from experiments.benchmarks.workloads import squares

TINY = squares(4096)._replace(name="tiny")


def test_exponent_of_a_power() -> None:
    sizes = [1e3, 1e5, 1e6]
    assert exponent(sizes, [3e-9 * size**1.7 for size in sizes]) == pytest.approx(1.7)


def test_ratios_are_those_of_medians() -> None:
    rows = table(
        [
            Timing("w", 10, "floor", 1.0, (0.001, 0.002, 0.009)),
            Timing("w", 10, "MP", 1.0, (0.02, 0.01, 0.03)),
            Timing("w", 10, "peer", note="not here"),
        ]
    ).splitlines()
    assert [cell.strip() for cell in rows[3].strip("|").split("|")] == [
        "MP", "20.0", "10.0-30.0", "10.0", "1.00", "1.00", "3", "0"
    ]  # fmt: skip
    assert "not here" in rows[4]

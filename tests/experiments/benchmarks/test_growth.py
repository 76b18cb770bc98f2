"""How time grows: exponents of powers, and a picture."""

from pathlib import Path

from experiments.benchmarks.growth import growth_table, plot
from experiments.benchmarks.masks import Timing

SIZES = (1_000_000, 10_000_000, 100_000_000)

TIMINGS = [
    *(Timing("w", size, "MP", 1.0, (2e-9 * size,)) for size in SIZES),
    *(Timing("w", size, "LAP", 1.0, (1e-12 * size**1.5,)) for size in reversed(SIZES)),
    Timing("w", SIZES[0], "floor", 1.0, (0.001, 0.003, 0.002)),
    Timing("w", SIZES[0], "peer", note="not here"),
]


def test_the_table_has_medians_by_size_and_the_exponents_of_their_growth() -> None:
    rows = growth_table(TIMINGS).splitlines()
    assert rows[0] == "| three matrices, median ms | 1M | 10M | 100M | exponent |"
    assert rows[2:] == [
        "| MP | 2.0 | 20.0 | 200.0 | 1.00 |",
        "| LAP | 1.0 | 31.6 | 1000.0 | 1.50 |",
        "| floor | 2.0 | - | - | - |",
    ]


def test_the_picture_is_written_whole(tmp_path: Path) -> None:
    plot(TIMINGS, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1

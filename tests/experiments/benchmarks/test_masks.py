import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks.__main__ import main
from experiments.benchmarks.entries import Peers, entries, kept, miscount
from experiments.benchmarks.masks import Timing, exponent, table
from experiments.benchmarks.workloads import Workload, squares, vgg19

TINY = squares(4096)._replace(name="tiny")


def test_vgg19_has_its_weights() -> None:
    """Simonyan & Zisserman's configuration E, with one dense layer for ten classes."""
    pairs = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), *[(256, 256)] * 3, (256, 512)]
    wanted = 9 * sum(a * b for a, b in [*pairs, *[(512, 512)] * 7]) + 512 * 10
    assert vgg19().size == wanted
    assert len(vgg19().kernels) == 17


@pytest.mark.parametrize(
    "name", ["floor", "XLA, one pass", "MP", "MP, global", "LAP, global", "jnp.sort", "lax.top_k",
             "numpy.partition"]
)  # fmt: skip
def test_every_entry_keeps_as_many(name: str) -> None:
    workload = squares(4096)
    assert miscount(name, workload, entries(workload, Peers())[name]()()) == 0


def test_a_wrong_mask_of_ours_is_an_error() -> None:
    kernel = TINY.kernels[0]
    wrong = np.zeros(kernel.shape, bool)
    wrong.reshape(-1)[: kept(kernel)] = True
    workload = Workload("tiny", [kernel])
    with pytest.raises(ValueError, match="others than the largest"):
        miscount("MP", workload, [wrong])
    wrong.reshape(-1)[-1] = True
    with pytest.raises(ValueError, match="keeps 1 weights more"):
        miscount("LAP", workload, [wrong])
    assert miscount("JaxPruner", workload, [wrong]) == 1


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


def test_peak_memory_is_measured_in_a_process_of_its_own() -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.memory", "vgg19", "memcpy"],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert 70e6 < int(done.stdout) < 100e6  # The copy of 80 MB, whose pages are new.

"""Whoever makes masks makes as many; and wrong ones of ours are found."""

from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks.entries import Peers, Unavailable, entries, kept, miscount
from experiments.benchmarks.workloads import KEPT, Workload, squares


@pytest.mark.parametrize(
    "name", ["floor", "XLA, one pass", "MP", "MP, global", "LAP, global", "jnp.sort", "lax.top_k",
             "numpy.partition", "MP, effective, last level"]
)  # fmt: skip
def test_every_entry_keeps_as_many(name: str) -> None:
    workload = squares(4096)
    assert miscount(name, workload, entries(workload, Peers())[name]()()) == 0


def test_a_wrong_mask_of_ours_is_an_error() -> None:
    kernel = squares(4096).kernels[0]
    wrong = np.zeros(kernel.shape, bool)
    wrong.reshape(-1)[: kept(kernel)] = True
    workload = Workload("tiny", [kernel])
    with pytest.raises(ValueError, match="others than the largest"):
        miscount("MP", workload, [wrong])
    wrong.reshape(-1)[-1] = True
    with pytest.raises(ValueError, match="keeps 1 weights more"):
        miscount("LAP", workload, [wrong])
    assert miscount("JaxPruner", workload, [wrong]) == 1


def test_as_many_stay_as_the_table_says() -> None:
    assert kept(np.zeros((100, 100))) == 163 == round(10_000 * KEPT)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("JaxPruner", "needs --jaxpruner FOLDER"),
        ("LAP reference", "needs --reference FOLDER"),
    ],
)
def test_a_program_that_is_not_here_says_what_it_needs(name: str, message: str) -> None:
    with pytest.raises(Unavailable, match=message):
        entries(squares(256), Peers())[name]()


def test_a_folder_that_holds_no_jaxpruner_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jaxpruner.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)  # put back afterwards
    with pytest.raises(Unavailable, match="does not import: No module named 'no_such_library'"):
        entries(squares(256), Peers(jaxpruner=tmp_path))["JaxPruner"]()

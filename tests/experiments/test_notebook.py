"""The notebooks run from top to bottom, install nothing over what is there, and say what is so."""

import importlib.metadata
import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "notebooks"
QUICK = {
    "quickstart": "SEEDS = 2\nTRAIN_STEPS, RETRAIN_STEPS = 200, 100\nLEVELS = (3, 6)",
    "shrink": "TRAIN_STEPS, RETRAIN_STEPS = 60, 20\nSHARES = (0.5, 0.7)\nTIMED, BATCH = 3, 64",
    "transformer": "TRAIN_STEPS, RETRAIN_STEPS = 20, 10\nSHARES = (0.5,)\n"
    "WIDTH, HEADS, KV_HEADS, HIDDEN, BLOCKS, CONTEXT = 16, 4, 2, 32, 2, 16",
}
"""What takes the place of a notebook's parameters in these tests."""


def notebook(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def printed(cell: Any) -> str:
    return "".join(out.text for out in cell.get("outputs", []) if out.output_type == "stream")


def shown(cells: Any, kind: str) -> list[str]:
    """What cells show of a kind, such as ``image/png``."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return [found.data[kind] for found in outputs if kind in found.get("data", {})]


def test_every_notebook_is_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(QUICK)


@pytest.fixture(scope="module")
def executed(request: Any, tmp_path_factory: Any) -> Any:
    """A notebook after it was run from top to bottom, with quick settings."""
    found = notebook(request.param)
    (settings,) = [c for c in found.cells if "parameters" in c.metadata.get("tags", ())]
    names = re.findall(r"^[\w, ]+(?= = )", settings.source, re.M)
    assert names == re.findall(r"^[\w, ]+(?= = )", QUICK[request.param], re.M)
    settings.source = QUICK[request.param]
    folder = {"metadata": {"path": str(tmp_path_factory.mktemp(request.param))}}
    nbclient.NotebookClient(found, timeout=600, resources=folder).execute()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("executed", QUICK, indirect=True)
def test_a_notebook_runs_from_top_to_bottom_and_shows_what_it_says(executed: Any) -> None:
    assert shown(executed.cells, "image/png")
    assert shown(executed.cells, "text/markdown")
    bars = [html for html in shown(executed.cells, "text/html") if "<progress" in html]
    assert bars
    for value, most in re.findall(r"value='(\d+)' max='(\d+)'", "".join(bars)):
        assert value == most


@pytest.mark.slow
@pytest.mark.parametrize("executed", ["quickstart"], indirect=True)
def test_the_sentence_under_the_plot_is_that_of_the_numbers_above_it(executed: Any) -> None:
    text = "\n".join(printed(cell) for cell in executed.cells)
    number = r"([\d.]+) ±\s+([\d.]+)"
    rows: dict[str, list[list[float]]] = {}
    for kept, name, *numbers in re.findall(
        rf"^\s*([\d.]+)%  (\S.*?)\s+\d+%\s+{number}\s+{number}\s*$", text, re.M
    ):
        rows.setdefault(name, []).append([float(kept), *map(float, numbers)])
    assert set(rows) == {"MP", "LAP", "LAP-backward-seq, effective"}
    (said,) = [md for md in shown(executed.cells, "text/markdown") if "After retraining" in md]
    told = dict(re.findall(r"After retraining, \*\*(.+?)\*\* is (.*?)\.(?:  \n|$)", said))
    for name in ("LAP", "LAP-backward-seq, effective"):
        # Numbers in the table are rounded: what is that close to the spread may go either way.
        gaps = [theirs[3] - ours[3] for ours, theirs in zip(rows[name], rows["MP"], strict=True)]
        spreads = [theirs[4] + ours[4] for ours, theirs in zip(rows[name], rows["MP"], strict=True)]
        beyond = [gap > spread + 0.2 for gap, spread in zip(gaps, spreads, strict=True)]
        level = [abs(gap) < spread - 0.2 for gap, spread in zip(gaps, spreads, strict=True)]
        assert any(beyond) <= ("ahead of MP" in told[name])
        assert all(level) <= ("ahead" not in told[name] and "behind" not in told[name])
        worse = [-gap > spread + 0.2 for gap, spread in zip(gaps, spreads, strict=True)]
        assert any(worse) <= ("behind MP" in told[name])


@pytest.mark.parametrize("name", QUICK)
def test_the_committed_outputs_are_of_a_whole_run_and_name_no_machine(name: str) -> None:
    found = notebook(name)
    code = [cell for cell in found.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = "".join(map(printed, code)) + "".join(shown(code, "text/html"))
    for trace_of_one in ("/home/", "/work/", "/root/", "/tmp/", "Warning"):
        assert trace_of_one not in outputs
    assert shown(code, "image/png")


@pytest.mark.parametrize("name", QUICK)
def test_the_first_cell_installs_beside_an_installed_jax(name: str, monkeypatch: Any) -> None:
    """In a runtime without lap_jax, pip is held to the versions of jax that are there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    first, *_ = [cell for cell in notebook(name).cells if cell.cell_type == "code"]
    runs: list[list[str]] = []
    pins: list[str] = []

    def run(command: list[str]) -> Any:
        runs.append(command)
        pins.extend(Path(command[command.index("--constraint") + 1]).read_text().split())
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    exec(first.source, {})
    assert not runs  # all is there already
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "lap_jax" else find(name)
    )
    exec(first.source, {})
    ((*_, source),) = runs
    assert source == f"git+{project['urls']['Repository']}"
    for held in ("jax", "jaxlib", "numpy"):
        assert f"{held}=={importlib.metadata.version(held)}" in pins
    monkeypatch.setattr(subprocess, "run", lambda command: SimpleNamespace(returncode=1))
    with pytest.raises(RuntimeError, match=r"jax 0\.10"):
        exec(first.source, {})

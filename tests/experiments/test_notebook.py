import shutil
from pathlib import Path
from typing import Any

import nbclient
import nbformat

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "notebooks" / "quickstart.ipynb"


def printed(cell: Any) -> str:
    return "".join(out.text for out in cell.get("outputs", []) if out.output_type == "stream")


def test_the_quickstart_runs_from_top_to_bottom(tmp_path: Path) -> None:
    notebook = nbformat.read(shutil.copy(NOTEBOOK, tmp_path), as_version=4)
    folder = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=folder).execute()

    text = "\n".join(printed(cell) for cell in notebook.cells)
    assert "the same masks: True" in text
    assert "weights of Dense_1 that are not zero: 2,000 of 40,000" in text
    rows = [line.split() for line in text.splitlines() if line.strip().startswith("13.")]
    (least_pruned,) = [[float(cell.strip("%")) for cell in row] for row in rows]
    assert least_pruned[2] > 90  # MP and LAP, retrained with an eighth of the weights
    assert least_pruned[4] > 90
    assert any(
        "image/png" in output.get("data", {}) for cell in notebook.cells
        for output in cell.get("outputs", [])
    )  # fmt: skip


def test_the_committed_outputs_are_of_a_whole_run_and_name_no_machine() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = "".join(printed(cell) for cell in code)
    assert "the same masks: True" in outputs
    assert "/home/" not in outputs
    assert "Warning" not in outputs

"""The pages of the documentation: their code runs as pasted, and they say what they promise."""

import contextlib
import io
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

import lap_jax
from lap_jax.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]

QUICK = {
    "start/linen.md", "start/nnx.md", "guide/files.md", "guide/freezing.md",
    "guide/troubleshooting.md", "reference/graphs.md", "guide/compare.md",
}  # fmt: skip
"""Pages whose code runs with every `make test`; that of the others in `make test-slow`."""

BLOCK = re.compile(r"^```(python|sh|text)\n(.*?)^```$", re.M | re.DOTALL)
"""Code, commands, or what was printed last."""

JAXPRUNER = """
    GlobalMagnitudePruning GlobalSaliencyPruning MagnitudePruning RandomPruning SaliencyPruning RigL
    SET StaticRandomSparse SteMagnitudePruning SteRandomPruning ALGORITHM_REGISTRY
    all_algorithm_names create_updater_from_config register_algorithm apply_mask BaseUpdater
    NoPruning SparseState NoUpdateSchedule OneShotSchedule PeriodicSchedule PolynomialSchedule
    SparsityType summarize_intersection summarize_sparsity
"""
TORCH = """
    BasePruningMethod PruningContainer Identity RandomUnstructured L1Unstructured RandomStructured
    LnStructured CustomFromMask identity random_unstructured l1_unstructured random_structured
    ln_structured global_unstructured custom_from_mask remove is_pruned
"""
TORCH_PRUNING = """
    DependencyGraph Group Dependency Node BasePruner MetaPruner MagnitudePruner BNScalePruner
    GroupNormPruner GrowingRegPruner MagnitudeImportance GroupMagnitudeImportance BNScaleImportance
    LAMPImportance FPGMImportance RandomImportance TaylorImportance GroupTaylorImportance
    HessianImportance GroupHessianImportance OBDCImportance ActivationImportance save load
    state_dict load_state_dict count_ops_and_params measure_latency BasePruningFunc PrunerBox
"""


def with_code() -> list[Any]:
    """Pages with code, the slow ones marked."""
    return [
        pytest.param(page, marks=() if page in QUICK else pytest.mark.slow)
        for page in PAGES
        if "```python\n" in (DOCS / page).read_text()
    ]


@pytest.mark.parametrize("page", with_code())
def test_code_runs_in_order_as_pasted(page: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = (DOCS / page).read_text()
    names: dict[str, Any] = {"__name__": "pasted"}
    printed = io.StringIO()
    for found in BLOCK.finditer(text):
        kind, content = found.groups()
        if kind == "text":
            assert content.rstrip("\n") in printed.getvalue()
        elif kind == "python":
            printed = io.StringIO()
            above = "\n" * (text[: found.start()].count("\n") + 1)
            with contextlib.redirect_stdout(printed):
                exec(compile(above + content, f"docs/{page}", "exec"), names)
        elif page == "guide/command_line.md":
            for line in content.splitlines():
                command, *arguments = shlex.split(line)
                assert command == "lap-jax"
                assert main(arguments) == (arguments[0] == "diff"), line
    for drawn in tmp_path.glob("*.svg"):
        assert drawn.read_text() == (DOCS / "_static" / drawn.name).read_text()


def test_the_pages_that_run_always_are_there() -> None:
    assert set(PAGES) >= QUICK
    fences = re.findall(r"^```(\S*)", "".join((DOCS / page).read_text() for page in PAGES), re.M)
    assert set(fences) <= {"", "python", "text", "sh", "{toctree}", "{eval-rst}", "{include}"}


def test_every_public_name_is_in_the_reference() -> None:
    directives = re.findall(
        r"^\.\. (?:auto\w+|py:data):: (\w+)$", (DOCS / "reference/api.md").read_text(), re.M
    )
    assert sorted(directives) == sorted(lap_jax.__all__)


@pytest.mark.parametrize(
    ("title", "names"),
    [("JaxPruner", JAXPRUNER), ("`torch.nn.utils.prune`", TORCH), ("Torch-Pruning", TORCH_PRUNING)],
)
def test_every_name_of_other_libraries_is_mapped(title: str, names: str) -> None:
    text = (DOCS / "reference/coming_from.md").read_text()
    (section,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.DOTALL)
    rows = [row.split("|")[1:3] for row in section.splitlines() if row.startswith("|")][2:]
    theirs = re.findall(r"\w+", " ".join(re.findall(r"`([^`]*)`", " ".join(r[0] for r in rows))))
    assert set(names.split()) <= set(theirs)
    assert all(ours.strip() for _, ours in rows)
    called = re.findall(r"`(?:lap_jax\.)?([a-z_]+)\(", " ".join(ours for _, ours in rows))
    assert set(called) <= {*lap_jax.__all__, "print"}


def slugs(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_no_link_between_pages_is_broken() -> None:
    for file in [ROOT / "README.md", *(DOCS / page for page in PAGES)]:
        prose = re.sub(r"```.*?```", "", file.read_text(), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", prose):
            if link.startswith("https://"):
                continue
            path, _, anchor = link.partition("#")
            target = (file.parent / path).resolve() if path else file
            assert target.exists(), f"{file.name}: {link}"
            assert not anchor or anchor in slugs(target.read_text()), f"{file.name}: {link}"


def test_one_placeholder_stands_for_the_repository() -> None:
    """What a release fills in is one word, wherever it stands."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(DOCS / page for page in PAGES)]
    files += (ROOT / "experiments" / "notebooks").glob("*.ipynb")
    for file in files:
        for link in re.findall(r"github\.com/[\w.-]+/lap_jax", file.read_text()):
            assert f"https://{link}" == REPOSITORY, file.name
    assert "OWNER" in (ROOT / "CONTRIBUTING.md").read_text()

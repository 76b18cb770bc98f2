"""What a release is made of: metadata, links, versions, types and the time of an import."""

import importlib.util
import itertools
import os
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import mypy.api
import pytest

import lap_jax

ROOT = Path(__file__).resolve().parents[1]


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_of_lap_jax", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_of_the_readme_are_absolute_in_the_metadata() -> None:
    text = "![a b](x/y.png) [c](z.md) [d](https://e.org/f) [g](#h) not[i](j k) ![](k.svg)"
    assert setup().absolute(text, "https://host/r") == (
        "![a b](https://host/r/raw/main/x/y.png) [c](https://host/r/blob/main/z.md) "
        "[d](https://e.org/f) [g](#h) not[i](j k) ![](https://host/r/raw/main/k.svg)"
    )
    readme = (ROOT / "README.md").read_text()
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", readme)
    for target in pictures:
        assert target.startswith("https://") or (ROOT / target).exists(), target
    found = setup().absolute(readme, project()["urls"]["Repository"])
    assert all(
        target.startswith("https://") for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", found)
    )


def test_the_repositorys_address_stands_in_one_place() -> None:
    """And in notebooks, which Colab opens from there: CONTRIBUTING.md names both."""
    address = project()["urls"]["Repository"]
    assert (ROOT / "pyproject.toml").read_text().count(address) == 1
    assert "`pyproject.toml`" in (ROOT / "CONTRIBUTING.md").read_text().partition("## Releases")[2]
    for file in ("README.md", "setup.py", "CHANGELOG.md", "lap_jax/version.py", "docs/conf.py"):
        assert address not in (ROOT / file).read_text(), file


def test_metadata_is_complete() -> None:
    found = project()
    for field in ("description", "authors", "keywords", "classifiers", "license", "urls"):
        assert found[field], field
    assert set(found["dynamic"]) == {"version", "readme"}
    assert lap_jax.__version__ in (ROOT / "lap_jax" / "version.py").read_text()
    told = " ".join((ROOT / "README.md").read_text().split())
    for extra in ("cli", "experiments"):
        assert extra in found["optional-dependencies"]
        assert f"`{extra}`" in told, f"README does not say what the extra {extra!r} is for"


def test_locked_versions_cover_what_is_asked_for_and_name_no_index() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert "--" not in text
    locked = {line.split("==")[0] for line in text.splitlines()}
    found = project()
    extras = dict(found["optional-dependencies"])
    del extras["deploy"]  # nothing here runs with it, and it would hold Orbax back for all
    for each in itertools.chain(found["dependencies"], *extras.values()):
        name = re.split(r"[\[>=<;~! ]", each)[0].lower().replace("_", "-")
        assert name in locked | {"lap-jax"}, f"{name}: make lock"


SNIPPET = """
import lap_jax
from lap_jax import Method, Scope

params: dict[str, int] = {}
graph, f = lap_jax.chain(params, []), lambda kernel: kernel
lap_jax.lookahead_masks(params, graph, 0.5, scope="global", method="LAP-forward-seq")
lap_jax.lookahead_masks(params, graph, 0.5, scope=Scope("global", "lamp", unit="channel"), method=f)
lap_jax.lookahead_masks(params, graph, 0.5, method=Method("magnitude", order=None, horizon="all"))
lap_jax.masks_from_scores(params, 0.5, scope="globl")
lap_jax.lookahead_masks(params, graph, 0.5, scope="globl")
lap_jax.lookahead_masks(params, graph, 0.5, method="LAPP")
lap_jax.lookahead_scores(params, graph, method="lap")
lap_jax.prune_in_training(f, graph, [], scope="layers")
Scope("globl")
Scope(normalize="max")
Scope(unit="neurons")
Method("l2")
Method(direction="up")
Method(order="sideways")
Method(horizon="some")
"""


@pytest.mark.slow
def test_a_type_checker_refuses_what_is_no_choice(tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(SNIPPET)
    text, errors, _ = mypy.api.run(
        ["--config-file", str(ROOT / "pyproject.toml"), "--no-warn-unused-ignores", "--cache-dir",
         str(tmp_path / "cache"), str(tmp_path / "snippet.py")]
    )  # fmt: skip
    assert errors == ""
    found = [int(number) for number in re.findall(r"snippet\.py:(\d+): error:", text)]
    lines = SNIPPET.splitlines()
    first = next(number for number, line in enumerate(lines, 1) if "globl" in line)
    assert found == list(range(first, len(lines) + 1)), text


@pytest.mark.slow
def test_lap_jax_is_imported_nearly_as_fast_as_what_it_stands_on(tmp_path: Path) -> None:
    """CPU time side by side, the least of several: at most 1.2 times that of jax and optax."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = kept | {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def seconds(code: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    seconds("import lap_jax")  # writes bytecode, which the others read
    pairs = [(seconds("import jax, optax"), seconds("import lap_jax")) for _ in range(7)]
    base, own = (min(each) for each in zip(*pairs, strict=True))
    assert own <= 1.2 * base, f"{own:.2f} s of CPU, and {base:.2f} s for jax and optax"


def test_the_import_brings_neither_the_command_line_nor_what_it_uses() -> None:
    code = "import sys, lap_jax; print([m for m in sys.modules if m.startswith("
    code += "('lap_jax.cli', 'tyro', 'flax', 'orbax', 'jax.extend', 'jax.experimental.pallas'))])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"

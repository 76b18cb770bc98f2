"""The rooms of the experiments: who imports whom, how long a file is, and which test is its own."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "experiments").rglob("*.py"))

ORDER = (
    ("files", "methods", "paper", "trial"),
    ("store",),
    ("data", "networks"),
    ("running", "reporting"),
    ("cli",),
    ("benchmarks", "__main__"),
)
"""A room imports those above it in this list, and itself."""

LINES = 450


def module(path: Path) -> str:
    """Dotted name of a file; a folder's own for its ``__init__.py``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES}


def imported(path: Path) -> set[str]:
    """The experiments' own modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    own = {name for name in names if name.split(".")[0] == "experiments"}
    return {name if name in MODULES else name.rpartition(".")[0] for name in own}


def room(name: str) -> str:
    return name.split(".")[1]


def level(name: str) -> int:
    (found,) = [number for number, rooms in enumerate(ORDER) if room(name) in rooms]
    return found


IMPORTS = {name: imported(path) for name, path in MODULES.items() if name != "experiments"}


def test_every_import_is_of_a_module_that_is_there() -> None:
    for name, others in IMPORTS.items():
        assert others <= MODULES.keys() - {"experiments"}, name


@pytest.mark.parametrize("name", IMPORTS)
def test_imports_go_to_lower_rooms_or_stay_inside(name: str) -> None:
    for other in IMPORTS[name]:
        assert room(other) == room(name) or level(other) < level(name), f"{name} imports {other}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    # Who is left when those that import nobody are taken away, again and again, is in a circle.
    left = {name: set(others) for name, others in IMPORTS.items()}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    assert not left


@pytest.mark.parametrize("path", FILES, ids=map(module, FILES))
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES


TESTS = Path(__file__).resolve().parent

WHOLE = {"test_rooms.py", "test_notebook.py"}
"""Tests of no module: of all of them, and of the notebook."""


def file_of(path: Path) -> str | None:
    """The test file of a module, of a folder for its ``__init__.py``; None: it holds no code."""
    if path.name == "__init__.py":
        _, *code = ast.parse(path.read_text()).body
        if not code:
            return None
        name = path.parent.name
    else:
        name = path.stem.strip("_")
    folder = path.relative_to(ROOT / "experiments").parent
    return (folder / f"test_{name}.py").as_posix()


def test_every_module_has_its_test_file_and_every_test_file_its_module() -> None:
    # The table of models is tested as a whole: its builders need the libraries of the models.
    parts = {path for path in FILES if path.parent.name == "models"}
    whole = {"benchmarks/models/test_command.py", "benchmarks/models/test_oracle.py"}
    wanted = {file_of(path) for path in FILES if path not in parts} - {None} | whole
    found = {path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")}
    assert wanted - found == set()
    assert found - wanted == WHOLE

"""There is one exception for all bad input."""

import ast
from pathlib import Path

import pytest

import lap_jax
from lap_jax import PruningError, chain
from lap_jax.errors import PruningError as defined

LIBRARY = sorted(Path(lap_jax.__file__).parent.rglob("*.py"))


def test_it_is_a_value_error_by_its_public_name() -> None:
    assert PruningError is defined
    assert issubclass(PruningError, ValueError)
    with pytest.raises(ValueError, match="the chain is empty"):
        chain({}, [])


def test_nothing_else_is_defined_or_raised() -> None:
    """`raise` names the one exception, or calls a function that makes one; of files OSError."""
    trees = {path: ast.parse(path.read_text()) for path in LIBRARY}
    makers = {
        node.name
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and isinstance(node.returns, ast.Name)
        and node.returns.id == "PruningError"
    }
    for path, tree in trees.items():
        more = {"files": {"OSError"}, "cli": {"OSError", "BadInput"}}
        own = {"PruningError", *makers} | more.get(path.parent.name, set())
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and path.name != "errors.py":
                assert not any("Error" in ast.unparse(base) for base in node.bases), node.name
            if isinstance(node, ast.Raise) and node.exc is not None:
                assert isinstance(node.exc, ast.Call), f"{path.name}:{node.lineno}"
                name = ast.unparse(node.exc.func)
                assert name in own, f"{path.name}:{node.lineno}: {name}"

"""The standard library's source as text."""

from pathlib import Path

import numpy as np
import pytest

from experiments.data import python_source
from experiments.data.source import DataError


def test_files_are_those_of_the_library_alone_and_every_tenth_is_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def module(name: str, letter: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(letter * 700)

    for number in range(120):
        module(f"part/m{number:03}.py", "t" if number % 10 == 0 else "r")
    for left_out in ("test/a.py", "site-packages/b.py", "part/tests/c.py", "notes.txt"):
        module(left_out, "x")
    paths = {"stdlib": str(tmp_path)}
    monkeypatch.setattr(python_source.sysconfig, "get_paths", lambda: paths)
    found = python_source.source()
    assert set(np.unique(found["train_x"])) == {ord("r"), ord("\n")}
    assert set(np.unique(found["test_x"])) == {ord("t"), ord("\n")}
    assert found["train_x"].shape[1] == python_source.CONTEXT
    assert np.array_equal(found["train_x"][:, 1:], found["train_y"][:, :-1])


def test_a_python_without_source_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_source.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(DataError, match="without the source"):
        python_source.source()

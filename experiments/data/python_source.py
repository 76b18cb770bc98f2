"""The source of Python's standard library as text: it comes with Python, 11 MB of it."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from experiments.data.source import Arrays, DataError, Source
from experiments.data.text import characters_of, windows

CONTEXT = 256
"""Characters of an example."""

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
"""Folders that installations differ in, or that hold other people's packages."""


def modules(folder: Path) -> list[Path]:
    """Return the files of a standard library, tests left out, sorted by name."""
    found = (path.relative_to(folder) for path in folder.rglob("*.py"))
    return [folder / path for path in sorted(found) if not LEFT_OUT.intersection(path.parts)]


def source() -> Arrays:
    """Return the standard library's source in ASCII; every tenth file is the test.

    An example is `CONTEXT` characters and, as labels, those that follow each. Training examples
    start every quarter of that, test examples cover their files once.

    Raises:
      DataError: if this Python came without its source.
    """
    files = modules(Path(sysconfig.get_paths()["stdlib"]))
    if len(files) < 100:
        raise DataError("python_source: this Python came without the source of its library")
    texts = [path.read_text("utf-8", "replace") for path in files]
    train = characters_of("\n".join(text for i, text in enumerate(texts) if i % 10))
    test = characters_of("\n".join(texts[::10]))
    train_x, train_y = windows(train, CONTEXT, CONTEXT // 4)
    test_x, test_y = windows(test, CONTEXT, CONTEXT)
    return {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}


SOURCES = {"python_source": Source(source, classes=128)}

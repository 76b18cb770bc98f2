"""Python's language reference as text: it comes with Python."""

from __future__ import annotations

from experiments.data.source import Arrays, Source
from experiments.data.text import characters_of, windows

CONTEXT = 64
"""Characters of an example."""


def reference() -> Arrays:
    """Return the language reference (`pydoc_data.topics`) in ASCII, its last tenth the test.

    An example is `CONTEXT` characters and, as labels, those that follow each. Training examples
    start every quarter of that, test examples cover the end once.
    """
    from pydoc_data.topics import topics

    characters = characters_of("\n".join(topics.values()))
    cut = len(characters) * 9 // 10
    train_x, train_y = windows(characters[:cut], CONTEXT, CONTEXT // 4)
    test_x, test_y = windows(characters[cut:], CONTEXT, CONTEXT)
    return {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}


SOURCES = {"python_reference": Source(reference, classes=128)}

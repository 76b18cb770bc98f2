"""Python's language reference as text: it comes with Python."""

from __future__ import annotations

import numpy as np

from experiments.data.source import Arrays, Source

CONTEXT = 64
"""Characters of an example."""


def windows() -> Arrays:
    """Return the language reference (`pydoc_data.topics`) in ASCII, its last tenth the test.

    An example is `CONTEXT` characters and, as labels, those that follow each. Training examples
    start every quarter of that, test examples cover the end once.
    """
    from pydoc_data.topics import topics

    text = "\n".join(topics.values()).encode("ascii", "replace")
    characters = np.frombuffer(text, np.uint8)
    cut = len(characters) * 9 // 10

    def examples(part: np.ndarray, every: int) -> tuple[np.ndarray, np.ndarray]:
        cuts = np.lib.stride_tricks.sliding_window_view(part, CONTEXT + 1)[::every]
        return cuts[:, :-1], cuts[:, 1:]

    train_x, train_y = examples(characters[:cut], CONTEXT // 4)
    test_x, test_y = examples(characters[cut:], CONTEXT)
    return {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}


SOURCES = {"python_reference": Source(windows, classes=128)}

"""Text as examples of equal length, each character to be told from those before it."""

from __future__ import annotations

import numpy as np


def characters_of(text: str) -> np.ndarray:
    """Return a text in ASCII, uint8 below 128; other characters become question marks."""
    return np.frombuffer(text.encode("ascii", "replace"), np.uint8)


def windows(characters: np.ndarray, length: int, every: int) -> tuple[np.ndarray, np.ndarray]:
    """Return examples ``[n, length]`` that start ``every`` characters, and what follows each."""
    cuts = np.lib.stride_tricks.sliding_window_view(characters, length + 1)[::every]
    return cuts[:, :-1], cuts[:, 1:]

"""scikit-learn's digits: images of 8 x 8 that need no download."""

from __future__ import annotations

from experiments.data.source import Arrays, Source


def digits() -> Arrays:
    """Return the digits, split 80 to 20, stratified, always in the same way."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        data.images[..., None], data.target, test_size=0.2, random_state=0, stratify=data.target
    )
    return {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}


SOURCES = {"digits": Source(digits, side=8)}

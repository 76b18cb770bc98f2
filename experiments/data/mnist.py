"""MNIST and Fashion-MNIST, whose published files have one format."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.source import Published, Source

FILES = tuple(
    f"{part}-{kind}-ubyte.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)


def idx(paths: Mapping[str, Any], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the images and labels of a split from its two files."""
    part = "train" if split == "train" else "t10k"
    image_bytes, label_bytes = (
        gzip.decompress(Path(paths[f"{part}-{kind}-ubyte.gz"]).read_bytes())
        for kind in ("images-idx3", "labels-idx1")
    )
    images = np.frombuffer(image_bytes, np.uint8, offset=16).reshape(-1, 28, 28)
    return images, np.frombuffer(label_bytes, np.uint8, offset=8)


def urls(builder: Any) -> dict[str, str]:
    """Return where the files are."""
    return {file: builder.URL + file for file in FILES}


SOURCES = {
    name: Source(published=Published(builder, FILES, urls, idx), side=28)
    for name, builder in (("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"))
}

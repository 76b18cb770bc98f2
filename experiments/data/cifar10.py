"""CIFAR-10."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.source import DataError, Published, Source

ARCHIVE, FOLDER = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


def batches(paths: Mapping[str, Any], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the published batches from their archive, or from the folder it unpacks to."""
    files = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    names = [f"{FOLDER}/{file}" for file in files]
    source = Path(paths[ARCHIVE])
    if source.is_dir():
        content = b"".join((source / name).read_bytes() for name in names)
    else:
        with tarfile.open(source) as archive:
            content = b"".join(_member(archive, name) for name in names)
    rows = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise DataError(f"the CIFAR-10 archive lacks {name}")
    return file.read()


def urls(builder: Any) -> dict[str, str]:
    """Return where the archive is."""
    return {ARCHIVE: builder._cifar_info.url}


SOURCES = {
    "cifar10": Source(
        published=Published(
            "Cifar10", (ARCHIVE,), urls, batches, CLASSES, numbered=True, unpacked=FOLDER
        ),
        side=32,
    )
}

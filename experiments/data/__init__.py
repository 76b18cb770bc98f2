"""The data sets, as arrays: each from its own file of this folder, found by `SOURCES`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import numpy as np

from experiments.data import prepared
from experiments.data.source import DataError, Dataset, Source


def _found() -> dict[str, Source]:
    """Collect ``SOURCES`` of every file of this folder: a new data set is a new file."""
    files = [import_module(f"{__name__}.{file.name}") for file in iter_modules(__path__)]
    return {name: source for file in files for name, source in getattr(file, "SOURCES", {}).items()}


SOURCES = _found()


def load(name: str, data_dir: Path | None = None, train_on: int = 0, side: int = 0) -> Dataset:
    """Return a data set.

    What a program makes, such as ``digits``, is at hand. The others are read from ``data_dir``,
    where `prepare` put them; the network is never touched.

    Args:
      name: of `SOURCES`.
      data_dir: folder of prepared data sets.
      train_on: training examples, the first ones; 0: all.
      side: rows and columns that images are resized to; 0: as they are.

    Raises:
      DataError: if ``name`` is unknown or the data set is not there.
    """
    if name not in SOURCES:
        raise DataError(f"unknown data set {name!r}: expected one of {', '.join(SOURCES)}")
    source = SOURCES[name]
    if source.arrays is not None:
        arrays = source.arrays()
    elif source.published is not None:
        arrays = prepared.read(name, source.published, data_dir)
    train_x, test_x = (arrays[f"{split}_x"].astype(np.float32) for split in ("train", "test"))
    if not source.is_text:
        mean, std = train_x.mean((0, 1, 2)), train_x.std((0, 1, 2))
        train_x, test_x = (train_x - mean) / std, (test_x - mean) / std
    train = slice(train_on or None)
    return Dataset(
        name,
        _resized(train_x[train], side),
        arrays["train_y"][train].astype(np.int32),
        _resized(test_x, side),
        arrays["test_y"].astype(np.int32),
        source.classes,
    )


def prepare(name: str, files: Path | None, data_dir: Path, accept_mismatch: bool = False) -> Path:
    """Write a TensorFlow Datasets folder from the published files, without TensorFlow.

    The data set's own TFDS builder checks the files' sizes and checksums and writes the examples in
    its own order; unpacking and PNG encoding are done here, because TFDS leaves them to TensorFlow.

    Args:
      name: of `SOURCES`, one that has published files.
      files: folder with the published files, such as four ``*-ubyte.gz`` files, or
        ``cifar-10-binary.tar.gz`` (or, with ``accept_mismatch``, ``cifar-10-batches-bin/``).
        None: TFDS downloads them.
      data_dir: folder to write to, the ``data_dir`` of TFDS.
      accept_mismatch: take CIFAR-10 from its unpacked folder, whose checksum cannot be verified.

    Returns:
      The folder of the data set.

    Raises:
      DataError: if a file is missing or cannot be had, or its checksum is not the published one.
    """
    published = SOURCES[name].published
    if published is None:
        raise DataError(f"{name} needs no preparation")
    return prepared.prepare(name, published, files, data_dir, accept_mismatch)


def _resized(images: np.ndarray, side: int) -> np.ndarray:
    shape = (len(images), side, side, images.shape[-1])
    if not side or images.shape == shape:
        return images
    import jax

    return np.asarray(jax.image.resize(images, shape, "linear"))

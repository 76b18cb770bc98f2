"""Data sets as arrays: scikit-learn's digits, and TensorFlow Datasets read without TensorFlow."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.results import write_atomically

NAMES = ("digits", "mnist", "fashion_mnist", "cifar10")
SPLITS = ("train", "test")

CIFAR10_CLASSES = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
]  # fmt: skip


class DataError(Exception):
    """A data set is not there or is not what it should be; the message says what to do."""


class Dataset(NamedTuple):
    """Images and labels.

    Attributes:
      name: one of `NAMES`.
      train_x, test_x: float32 ``[examples, height, width, channels]``, normalised by the mean and
        standard deviation of each channel over the training set.
      train_y, test_y: int32 ``[examples]``.
      classes: number of classes.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: int


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Return a data set.

    ``digits`` comes with scikit-learn and is split 80 to 20, stratified, always in the same way.
    The others are read from ``data_dir``, where `prepare` put them; the network is never touched.

    Raises:
      DataError: if ``name`` is unknown or the data set is not there.
    """
    if name not in NAMES:
        raise DataError(f"unknown data set {name!r}: expected one of {', '.join(NAMES)}")
    arrays = _digits() if name == "digits" else _tfds_arrays(name, data_dir)
    train_x = arrays["train_x"].astype(np.float32)
    mean, std = train_x.mean((0, 1, 2)), train_x.std((0, 1, 2))
    return Dataset(
        name,
        (train_x - mean) / std,
        arrays["train_y"].astype(np.int32),
        (arrays["test_x"].astype(np.float32) - mean) / std,
        arrays["test_y"].astype(np.int32),
        classes=10,
    )


def prepare(name: str, files: Path | None, data_dir: Path, accept_mismatch: bool = False) -> Path:
    """Write a TensorFlow Datasets folder from the published files, without TensorFlow.

    The data set's own TFDS builder checks the files' sizes and checksums and writes the examples in
    its own order; unpacking and PNG encoding are done here, because TFDS leaves them to TensorFlow.

    Args:
      name: "mnist", "fashion_mnist" or "cifar10".
      files: folder with the published files: four ``*-ubyte.gz`` files, or
        ``cifar-10-binary.tar.gz`` (or, with ``accept_mismatch``, ``cifar-10-batches-bin/``).
        None: TFDS downloads them.
      data_dir: folder to write to, the ``data_dir`` of TFDS.
      accept_mismatch: take CIFAR-10 from its unpacked folder, whose checksum cannot be verified.

    Returns:
      The folder of the data set.

    Raises:
      DataError: if a file is missing or cannot be had, or its checksum is not the published one.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    manual_dir = None
    if files is not None:
        _check_files(name, files, accept_mismatch)
        manual_dir = files.resolve()
    builder = _builder_class(name, manual_dir)(
        data_dir=str(data_dir.resolve()), file_format="array_record"
    )
    config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    try:
        builder.download_and_prepare(download_config=config)
    except NonMatchingChecksumError as error:
        raise DataError(f"a file of {name} is not the published one: {error}") from None
    except OSError as error:
        if files is not None:
            raise
        raise DataError(
            f"{name} could not be downloaded ({error}): get {', '.join(_files(name))} in another "
            "way and give their folder as --files"
        ) from None
    return Path(builder.data_dir)


def _digits() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        data.images[..., None], data.target, test_size=0.2, random_state=0, stratify=data.target
    )
    return {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}


def _tfds_arrays(name: str, data_dir: Path | None) -> dict[str, np.ndarray]:
    """Read a prepared data set; decoded arrays are kept as npz beside it."""
    versions = sorted((data_dir / name).glob("*/dataset_info.json")) if data_dir else []
    if data_dir is None or not versions:
        where = f"{name} is not in {data_dir}" if data_dir else f"{name} needs --data-dir"
        raise DataError(
            f"{where}: make it with `python -m experiments prepare {name} --files FOLDER "
            f"--data-dir {data_dir or 'FOLDER'}`, where --files holds {', '.join(_files(name))}"
        )
    cache = versions[-1].parent / "arrays.npz"
    if not cache.exists():
        arrays: dict[str, np.ndarray] = {}
        for split in SPLITS:
            arrays[f"{split}_x"], arrays[f"{split}_y"] = _decoded(name, data_dir, split)
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        write_atomically(cache, content.getvalue())
    with np.load(cache, allow_pickle=False) as stored:
        return dict(stored)


def _decoded(name: str, data_dir: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds

    source = tfds.data_source(
        name, split=split, data_dir=str(data_dir), download=False,
        builder_kwargs={"file_format": "array_record"},
    )  # fmt: skip
    starts = range(0, len(source), 1000)
    chunks = (range(start, min(start + 1000, len(source))) for start in starts)
    records = [record for chunk in chunks for record in source.__getitems__(chunk)]
    images = np.stack([record["image"] for record in records])
    return images, np.array([record["label"] for record in records], np.int32)


def _files(name: str) -> list[str]:
    if name == "cifar10":
        return ["cifar-10-binary.tar.gz"]
    return [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k")
            for kind in ("images-idx3", "labels-idx1")]  # fmt: skip


def _check_files(name: str, files: Path, accept_mismatch: bool) -> None:
    missing = [file for file in _files(name) if not (files / file).exists()]
    unpacked = (files / "cifar-10-batches-bin").is_dir()
    if missing and not (name == "cifar10" and unpacked and accept_mismatch):
        advice = (
            "; the unpacked folder is there: give --accept-mismatch to use it unverified"
            if name == "cifar10" and unpacked
            else ": put the published files there"
        )
        raise DataError(f"{files} lacks {', '.join(missing)}{advice}")


def _builder_class(name: str, files: Path | None) -> Any:
    """Return the data set's TFDS builder with reading and decoding that need no TensorFlow."""
    import tensorflow_datasets as tfds
    from PIL import Image

    images = tfds.image_classification
    published = {
        "mnist": images.MNIST,
        "fashion_mnist": images.FashionMNIST,
        "cifar10": images.Cifar10,
    }[name]

    def split_generators(self: Any, manager: Any) -> dict[str, Iterator[tuple[int, Any]]]:
        if name == "cifar10":
            # The published builder reads the names from the archive, with TensorFlow.
            self.info.features["label"].names = CIFAR10_CLASSES
            if files is not None and not (files / "cifar-10-binary.tar.gz").exists():
                return {split: examples(self, _cifar(files, split), split) for split in SPLITS}
            archive = manager.download(self._cifar_info.url)
            return {split: examples(self, _cifar(archive, split), split) for split in SPLITS}
        paths = manager.download({file: self.URL + file for file in _files(name)})
        return {split: examples(self, _idx(paths, split), split) for split in SPLITS}

    def examples(
        self: Any, arrays: tuple[np.ndarray, np.ndarray], split: str
    ) -> Iterator[tuple[int, Any]]:
        for index, (image, label) in enumerate(zip(*arrays, strict=True)):
            # A Pillow image is encoded by Pillow; an array would be encoded by TensorFlow.
            record = {"image": Image.fromarray(image), "label": int(label)}
            if name == "cifar10":
                record["id"] = f"{split}_{index:05d}"
            yield index, record

    return type(
        published.__name__,
        (published,),
        {"name": name, "_split_generators": split_generators, "_generate_examples": examples},
        skip_registration=True,
    )


def _idx(paths: dict[str, Any], split: str) -> tuple[np.ndarray, np.ndarray]:
    part = "train" if split == "train" else "t10k"
    image_bytes, label_bytes = (
        gzip.decompress(Path(paths[f"{part}-{kind}-ubyte.gz"]).read_bytes())
        for kind in ("images-idx3", "labels-idx1")
    )
    images = np.frombuffer(image_bytes, np.uint8, offset=16).reshape(-1, 28, 28)
    return images, np.frombuffer(label_bytes, np.uint8, offset=8)


def _cifar(source: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the published batches from their archive, or from the folder it unpacks to."""
    batches = (
        [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    )
    names = [f"cifar-10-batches-bin/{batch}" for batch in batches]
    if Path(source).is_dir():
        content = b"".join((Path(source) / name).read_bytes() for name in names)
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

"""Data sets that are prepared once and read with TensorFlow Datasets, without TensorFlow."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.source import Arrays, DataError, Published
from experiments.files import write_atomically

SPLITS = ("train", "test")


def prepare(
    name: str, published: Published, files: Path | None, data_dir: Path, accept_mismatch: bool
) -> Path:
    """Write a TensorFlow Datasets folder from the published files; see `experiments.data`."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    manual_dir = None
    if files is not None:
        _check_files(published, files, accept_mismatch)
        manual_dir = files.resolve()
    builder = _builder_class(name, published, manual_dir)(
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
            f"{name} could not be downloaded ({error}): get {', '.join(published.files)} in "
            "another way and give their folder as --files"
        ) from None
    return Path(builder.data_dir)


def read(name: str, published: Published, data_dir: Path | None) -> Arrays:
    """Read a prepared data set; decoded arrays are kept as npz beside it.

    Raises:
      DataError: if it is not there.
    """
    versions = sorted((data_dir / name).glob("*/dataset_info.json")) if data_dir else []
    if data_dir is None or not versions:
        where = f"{name} is not in {data_dir}" if data_dir else f"{name} needs --data-dir"
        raise DataError(
            f"{where}: make it with `python -m experiments prepare {name} --files FOLDER "
            f"--data-dir {data_dir or 'FOLDER'}`, where --files holds {', '.join(published.files)}"
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


def _check_files(published: Published, files: Path, accept_mismatch: bool) -> None:
    missing = [file for file in published.files if not (files / file).exists()]
    unpacked = bool(published.unpacked) and (files / published.unpacked).is_dir()
    if missing and not (unpacked and accept_mismatch):
        advice = (
            "; the unpacked folder is there: give --accept-mismatch to use it unverified"
            if unpacked
            else ": put the published files there"
        )
        raise DataError(f"{files} lacks {', '.join(missing)}{advice}")


def _builder_class(name: str, published: Published, files: Path | None) -> Any:
    """Return the data set's TFDS builder with reading and decoding that need no TensorFlow."""
    import tensorflow_datasets as tfds
    from PIL import Image

    builder = getattr(tfds.image_classification, published.builder)

    def split_generators(self: Any, manager: Any) -> dict[str, Iterator[tuple[int, Any]]]:
        if published.label_names:
            # The published builder reads the names from the archive, with TensorFlow.
            self.info.features["label"].names = list(published.label_names)
        if files is not None and not (files / published.files[0]).exists():
            paths = dict.fromkeys(published.files, files)
        else:
            paths = manager.download(published.urls(self))
        return {split: examples(published.arrays(paths, split), split) for split in SPLITS}

    def examples(arrays: tuple[np.ndarray, np.ndarray], split: str) -> Iterator[tuple[int, Any]]:
        for index, (image, label) in enumerate(zip(*arrays, strict=True)):
            # A Pillow image is encoded by Pillow; an array would be encoded by TensorFlow.
            record = {"image": Image.fromarray(image), "label": int(label)}
            if published.numbered:
                record["id"] = f"{split}_{index:05d}"
            yield index, record

    return type(
        builder.__name__,
        (builder,),
        {"name": name, "_split_generators": split_generators},
        skip_registration=True,
    )

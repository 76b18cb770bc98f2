import tarfile
from pathlib import Path

import chex
import numpy as np
import pytest

from experiments.data import DataError, cifar10, load, prepare


def test_cifar10_is_read_from_its_unpacked_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "files" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    images = rng.integers(0, 256, (6, 4, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, (6, 4), dtype=np.uint8)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for name, x, y in zip(names, images, labels, strict=True):
        rows = np.concatenate([y[:, None], x.transpose(0, 3, 1, 2).reshape(4, -1)], axis=1)
        (folder / name).write_bytes(rows.tobytes())
    with pytest.raises(DataError, match="give --accept-mismatch to use it unverified"):
        prepare("cifar10", tmp_path / "files", tmp_path / "tfds")
    prepare("cifar10", tmp_path / "files", tmp_path / "tfds", accept_mismatch=True)
    data = load("cifar10", tmp_path / "tfds")
    chex.assert_shape([data.train_x, data.test_x], [(20, 32, 32, 3), (4, 32, 32, 3)])
    mean = images[:5].reshape(-1, 3).mean(0)
    std = images[:5].reshape(-1, 3).std(0)
    restored = np.rint(data.test_x * std + mean).astype(np.uint8)
    assert sorted(i.tobytes() for i in restored) == sorted(i.tobytes() for i in images[5])
    assert sorted(data.test_y.tolist()) == sorted(labels[5].tolist())


def test_cifar10_is_read_from_its_archive_as_from_its_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (4, 3073), dtype=np.uint8)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "test_batch.bin").write_bytes(rows.tobytes())
    with tarfile.open(tmp_path / "archive.tar.gz", "w:gz") as archive:
        archive.add(folder, "cifar-10-batches-bin")
    for source in (tmp_path, tmp_path / "archive.tar.gz"):
        images, labels = cifar10.batches({cifar10.ARCHIVE: source}, "test")
        wanted = rows[:, 0], rows[:, 1:].reshape(4, 3, 32, 32).transpose(0, 2, 3, 1)
        chex.assert_trees_all_equal((labels, images), wanted)

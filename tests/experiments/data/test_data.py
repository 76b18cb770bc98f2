import gzip
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from experiments.data import DataError, cifar10, load, prepare

IDX_FILES = [
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
]


def test_digits_are_normalised_split_for_good_and_stratified():
    data = load("digits")
    assert data.train_x.shape == (1437, 8, 8, 1)
    assert data.test_x.shape == (360, 8, 8, 1)
    assert (data.train_x.dtype, data.train_y.dtype) == (np.float32, np.int32)
    assert abs(data.train_x.mean()) < 1e-5
    assert abs(data.train_x.std() - 1) < 1e-5
    assert np.bincount(data.test_y).min() >= 34
    again = load("digits")
    assert (again.train_x == data.train_x).all()
    everything = np.concatenate([data.train_x, data.test_x]).reshape(1797, -1)
    assert len(np.unique(everything, axis=0)) == 1797  # no image is in both parts


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """Files in the published format, 50 + 20 images, whose checksums TFDS is told to expect."""
    import hashlib

    tfds = pytest.importorskip("tensorflow_datasets")
    files = tmp_path / "files"
    files.mkdir()
    rng = np.random.default_rng(0)
    arrays = {}
    for part, split, count in (("train", "train", 50), ("t10k", "test", 20)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        arrays[split] = images, labels
        contents = {
            f"{part}-images-idx3-ubyte.gz": bytes(16) + images.tobytes(),
            f"{part}-labels-idx1-ubyte.gz": bytes(8) + labels.tobytes(),
        }
        for name, content in contents.items():
            (files / name).write_bytes(gzip.compress(content))
    infos = {}
    for name in IDX_FILES:
        content = (files / name).read_bytes()
        infos[tfds.image_classification.MNIST.URL + name] = tfds.download.checksums.UrlInfo(
            size=len(content), checksum=hashlib.sha256(content).hexdigest(), filename=name
        )
    monkeypatch.setattr(tfds.download.checksums, "get_all_url_infos", lambda: infos)
    monkeypatch.setattr(tfds.image_classification.MNIST, "url_infos", infos)
    return files, arrays


def test_prepared_data_comes_back_whole_without_tensorflow(small_mnist, tmp_path):
    files, arrays = small_mnist
    folder = prepare("mnist", files, tmp_path / "tfds")
    assert (folder / "dataset_info.json").exists()
    data = load("mnist", tmp_path / "tfds")
    assert "tensorflow" not in sys.modules
    train_images = arrays["train"][0]
    mean, std = train_images.mean(dtype=np.float64), train_images.std(dtype=np.float64)
    for images, labels, (expected_images, expected_labels) in (
        (data.train_x, data.train_y, arrays["train"]),
        (data.test_x, data.test_y, arrays["test"]),
    ):
        restored = np.rint(images * std + mean).astype(np.uint8)[..., 0]
        # TFDS shuffles: the same images with the same labels, in some order.
        found = sorted((i.tobytes(), int(k)) for i, k in zip(restored, labels, strict=True))
        wanted = zip(expected_images, expected_labels, strict=True)
        assert found == sorted((i.tobytes(), int(k)) for i, k in wanted)
    again = load("mnist", tmp_path / "tfds")  # from the arrays kept beside the data
    assert (again.train_x == data.train_x).all()


def test_a_file_with_another_checksum_is_refused(small_mnist, tmp_path):
    files, _ = small_mnist
    labels = files / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(bytes(28)))
    with pytest.raises(DataError, match="is not the published one"):
        prepare("mnist", files, tmp_path / "tfds")


def test_cifar10_is_read_from_its_unpacked_folder(tmp_path):
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
    assert data.train_x.shape == (20, 32, 32, 3)
    mean = images[:5].reshape(-1, 3).mean(0)
    std = images[:5].reshape(-1, 3).std(0)
    restored = np.rint(data.test_x * std + mean).astype(np.uint8)
    assert sorted(i.tobytes() for i in restored) == sorted(i.tobytes() for i in images[5])
    assert sorted(data.test_y.tolist()) == sorted(labels[5].tolist())


def test_cifar10_is_read_from_its_archive_as_from_its_folder(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (4, 3073), dtype=np.uint8)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "test_batch.bin").write_bytes(rows.tobytes())
    with tarfile.open(tmp_path / "archive.tar.gz", "w:gz") as archive:
        archive.add(folder, "cifar-10-batches-bin")
    for source in (tmp_path, tmp_path / "archive.tar.gz"):
        images, labels = cifar10.batches({cifar10.ARCHIVE: source}, "test")
        assert (labels == rows[:, 0]).all()
        assert (images[:, 3, 5, 2] == rows[:, 1 + 2 * 1024 + 3 * 32 + 5]).all()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_missing_data_says_in_one_line_what_to_do(name, tmp_path):
    with pytest.raises(DataError) as caught:
        load(name, tmp_path)
    message = str(caught.value)
    assert f"python -m experiments prepare {name} --files FOLDER --data-dir {tmp_path}" in message
    assert "\n" not in message
    with pytest.raises(DataError, match=f"{name} needs --data-dir"):
        load(name)


def test_missing_files_are_named(tmp_path):
    (tmp_path / IDX_FILES[0]).touch()
    with pytest.raises(DataError, match=r"lacks train-labels-idx1-ubyte.gz, t10k-images"):
        prepare("mnist", tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match=r"lacks cifar-10-binary.tar.gz: put the published"):
        prepare("cifar10", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_names_are_refused():
    with pytest.raises(DataError, match="unknown data set 'minst'"):
        load("minst")


@pytest.mark.skipif(
    not Path("../shared/data/mnist").exists(), reason="the published MNIST files are not here"
)
def test_published_mnist_is_bit_identical(tmp_path):
    files = Path("../shared/data/mnist")
    folder = prepare("mnist", files, tmp_path)
    splits = json.loads((folder / "dataset_info.json").read_text())["splits"]
    assert {split["name"]: split["shardLengths"] for split in splits} == {
        "train": ["60000"],
        "test": ["10000"],
    }
    data = load("mnist", tmp_path)
    raw = np.frombuffer(gzip.decompress((files / IDX_FILES[2]).read_bytes())[16:], np.uint8)
    raw = raw.reshape(-1, 28 * 28)
    train = gzip.decompress((files / IDX_FILES[0]).read_bytes())[16:]
    pixels = np.frombuffer(train, np.uint8).astype(np.float64)
    restored = np.rint(data.test_x * pixels.std() + pixels.mean()).astype(np.uint8)
    assert sorted(map(bytes, restored.reshape(-1, 28 * 28))) == sorted(map(bytes, raw))

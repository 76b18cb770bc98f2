import gzip
import sys
from pathlib import Path

import chex
import numpy as np
import pytest

from experiments.data import DataError, load, prepare

IDX_FILES = [
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
]

Mnist = tuple[Path, dict[str, tuple[np.ndarray, np.ndarray]]]
"""A folder of published files; images and labels of each split."""


@pytest.fixture
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mnist:
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


def test_prepared_data_comes_back_whole_without_tensorflow(
    small_mnist: Mnist, tmp_path: Path
) -> None:
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
    chex.assert_trees_all_equal(again, data)


def test_a_file_with_another_checksum_is_refused(small_mnist: Mnist, tmp_path: Path) -> None:
    files, _ = small_mnist
    labels = files / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(bytes(28)))
    with pytest.raises(DataError, match="is not the published one"):
        prepare("mnist", files, tmp_path / "tfds")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_missing_data_says_in_one_line_what_to_do(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(name, tmp_path)
    message = str(caught.value)
    assert f"python -m experiments prepare {name} --files FOLDER --data-dir {tmp_path}" in message
    assert "\n" not in message
    with pytest.raises(DataError, match=f"{name} needs --data-dir"):
        load(name)


def test_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / IDX_FILES[0]).touch()
    with pytest.raises(DataError, match=r"lacks train-labels-idx1-ubyte.gz, t10k-images"):
        prepare("mnist", tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match=r"lacks cifar-10-binary.tar.gz: put the published"):
        prepare("cifar10", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()

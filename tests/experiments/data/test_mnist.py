import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from experiments.data import load, prepare

IMAGES = ["train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"]


@pytest.mark.skipif(
    not Path("../shared/data/mnist").exists(), reason="the published MNIST files are not here"
)
def test_published_mnist_is_bit_identical(tmp_path: Path) -> None:
    files = Path("../shared/data/mnist")
    folder = prepare("mnist", files, tmp_path)
    splits = json.loads((folder / "dataset_info.json").read_text())["splits"]
    assert {split["name"]: split["shardLengths"] for split in splits} == {
        "train": ["60000"],
        "test": ["10000"],
    }
    data = load("mnist", tmp_path)
    raw = np.frombuffer(gzip.decompress((files / IMAGES[1]).read_bytes())[16:], np.uint8)
    raw = raw.reshape(-1, 28 * 28)
    train = gzip.decompress((files / IMAGES[0]).read_bytes())[16:]
    pixels = np.frombuffer(train, np.uint8).astype(np.float64)
    restored = np.rint(data.test_x * pixels.std() + pixels.mean()).astype(np.uint8)
    assert sorted(map(bytes, restored.reshape(-1, 28 * 28))) == sorted(map(bytes, raw))

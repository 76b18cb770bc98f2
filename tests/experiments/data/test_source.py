"""What tells where a data set comes from agrees with what comes from there."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments.data import SOURCES, load
from experiments.data.source import Dataset

MADE = [name for name, source in SOURCES.items() if source.arrays]
PUBLISHED = {name: source.published for name, source in SOURCES.items() if source.published}


@pytest.mark.parametrize("name", MADE)
def test_a_data_set_of_a_program_is_what_its_source_says(name: str) -> None:
    source, data = SOURCES[name], load(name)
    assert data.is_text == (source.side == 0)
    assert data.classes == source.classes > max(data.train_y.max(), data.test_y.max())
    if source.side:
        assert data.train_x.shape[1:3] == data.test_x.shape[1:3] == (source.side, source.side)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_file_has_its_address(name: str) -> None:
    published = PUBLISHED[name]
    builder = SimpleNamespace(
        URL="https://host/", _cifar_info=SimpleNamespace(url=f"https://host/{published.files[0]}")
    )
    wanted = {file: f"https://host/{file}" for file in published.files}
    assert published.urls(builder) == wanted
    assert len(published.label_names) in (0, SOURCES[name].classes)


def test_characters_have_no_rows_and_columns() -> None:
    labels = np.zeros(2, np.int32)
    image, text = np.zeros((2, 4, 4, 1), np.float32), np.zeros((2, 7), np.float32)
    assert not Dataset("image", image, labels, image, labels, 10).is_text
    assert Dataset("text", text, labels, text, labels, 128).is_text

"""Windows of a text."""

import numpy as np

from experiments.data.text import characters_of, windows


def test_labels_are_what_follows() -> None:
    text = "abcdefghij"
    x, y = windows(characters_of(text), 4, 3)
    assert [bytes(row).decode() for row in x] == ["abcd", "defg"]
    assert [bytes(row).decode() for row in y] == ["bcde", "efgh"]
    assert x.dtype == np.uint8


def test_what_is_not_ascii_is_a_question_mark() -> None:
    assert bytes(characters_of("aäb")).decode() == "a?b"

from pydoc_data.topics import topics

import chex
import numpy as np

from experiments.data import load
from experiments.data.python_reference import CONTEXT


def test_the_text_is_ascii_and_its_end_is_the_test() -> None:
    text = "\n".join(topics.values()).encode("ascii", "replace")
    cut = len(text) * 9 // 10
    data = load("python_reference")
    windows = {
        split: np.concatenate([x, y[:, -1:]], 1).astype(np.uint8)
        for split, x, y in (
            ("train", data.train_x, data.train_y),
            ("test", data.test_x, data.test_y),
        )
    }
    chex.assert_trees_all_equal(data.train_x[:, 1:], data.train_y[:, :-1])
    assert windows["train"].max() < data.classes == 128
    assert windows["train"][1].tobytes() == text[16:81]
    last = 16 * (len(windows["train"]) - 1)
    assert windows["train"][-1].tobytes() == text[last : last + 65]
    assert cut - 16 < last + 65 <= cut
    tested = windows["test"][:, :CONTEXT].tobytes()
    assert tested == text[cut : cut + len(tested)]
    assert len(text) - cut - len(tested) <= CONTEXT

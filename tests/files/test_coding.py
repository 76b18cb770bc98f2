"""Codes of masks: exact, near the entropy, and refused where they are none."""

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from lap_jax.files.coding import Code, decode, encode


def entropy(share: float) -> float:
    return -sum(p * math.log2(p) for p in (share, 1 - share) if p)


@hypothesis.given(st.lists(st.booleans(), max_size=70), st.integers(0, 200))
def test_any_mask_comes_back(bits: list[bool], gap: int) -> None:
    mask = np.array([*bits, *[False] * gap, *bits[:3]], bool)
    for each in (mask, ~mask):
        assert (decode(encode(each), each.size, int(each.sum())) == each).all()


@pytest.mark.parametrize("kept", [0.001, 0.03, 0.1, 0.3, 0.38, 0.5, 0.62, 0.9, 0.999])
def test_random_masks_take_their_entropy_within_five_percent(kept: float) -> None:
    mask = np.random.default_rng(0).random((1000, 500)) < kept
    code = encode(mask)
    assert 8 * code.content.size <= 1.05 * mask.size * entropy(mask.mean())
    assert (decode(code, mask.size, int(mask.sum())) == mask.reshape(-1)).all()
    bits = [code.k, 2 * mask.mean() > 1]
    assert [*code[:2]] == bits


def test_the_code_is_the_one_that_is_described() -> None:
    """By hand, bit by bit: gaps 2, 0, 9, 4 with k = 2."""
    mask = np.zeros(20, bool)
    mask[[2, 3, 13, 18]] = True
    assert encode(mask)[:2] == (1, False)  # shorter by a plane; what follows is read all the same
    planes = [0b0010_0000, 0b1000_0000]  # of the lowest bits 0 0 1 0 and the next 1 0 0 0
    unary = [0b1100_1010]  # 2 >> 2, 0 >> 2, 9 >> 2, 4 >> 2 are 0, 0, 2, 1
    code = Code(2, False, np.array([*planes, *unary], np.uint8))
    assert (decode(code, 20, 4) == mask).all()
    dense = encode(np.array([True, False, True, True, False, False, True]))
    assert (dense.k, dense.pruned, dense.content.tolist()) == (0, True, [0b0100_1100])


def test_what_is_no_code_is_refused() -> None:
    mask = np.arange(300) % 17 == 0
    code = encode(mask)
    kept = int(mask.sum())
    changed = [
        (code._replace(k=99), kept),
        (code._replace(k=-1), kept),
        (code._replace(content=code.content[:2]), kept),
        (code._replace(content=code.content[:-1]), kept),
        (code._replace(k=code.k + 4), kept),
        (code, kept - 1),
        (code, 301),
        (code._replace(pruned=True), kept),
    ]
    for other, count in changed:
        with pytest.raises(ValueError, match="code"):
            decode(other, 300, count)


def test_clusters_take_less() -> None:
    rows = np.zeros((500, 400), bool)
    rows[100:130] = True
    assert 8 * encode(rows).content.size < rows.size * entropy(rows.mean())

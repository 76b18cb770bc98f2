"""Where a mask is True, in about as many bits as there is to tell: Rice codes of gaps.

Of the True and the False of a flattened mask, the rarer are coded: each by its gap, the number of
places between it and the one before (or the start). The lowest ``k`` bits of all gaps are written
as ``k`` planes, lowest first, each ``ceil(count / 8)`` bytes; the rest of each gap, ``gap >> k``,
is written as so many zeros and a one. Bits fill bytes from the highest; the last byte of a plane
and of the unary part is filled up with zeros.

Gaps of a random mask are geometric. Of the codes that give each gap a word of its own Golomb's are
the best for them (1966), and Rice's (1979), whose parameter is a power of two, take at most 5% more
than the entropy. At k = 0 the code is the mask itself, or the opposite, up to the last place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lap_jax.errors import PruningError


class Code(NamedTuple):
    """A coded mask.

    Attributes:
      k: how many low bits of each gap are in planes.
      pruned: whether the gaps are those of the False.
      content: planes and unary part, uint8.
    """

    k: int
    pruned: bool
    content: np.ndarray


def encode(mask: np.ndarray) -> Code:
    """Return the code of a mask, bool of any shape."""
    flat = mask.reshape(-1)
    pruned = bool(2 * np.count_nonzero(flat) > flat.size)
    gaps = np.diff(np.flatnonzero(flat != pruned), prepend=-1) - 1
    k, rest = 0, gaps
    # Another plane costs a bit a gap and spares half the zeros, rounded up; half of fewer zeros is
    # less, so that once it does not pay it never will.
    while int(rest.sum()) - int((rest >> 1).sum()) > gaps.size:
        k, rest = k + 1, rest >> 1
    ends = np.cumsum(rest + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1 if ends.size else 0, bool)
    unary[ends] = True
    planes = [np.packbits((gaps >> bit & 1).astype(bool)) for bit in range(k)]
    return Code(k, pruned, np.concatenate([*planes, np.packbits(unary)]))


def decode(code: Code, size: int, kept: int) -> np.ndarray:
    """Return the mask of a code, bool ``[size]``, of which ``kept`` are True.

    Raises:
      PruningError: if it is not the code of such a mask.
    """
    k, pruned, content = code
    count = size - kept if pruned else kept
    plane = -(-count // 8)
    if not 0 <= count <= size or not 0 <= k <= size.bit_length() or content.size < k * plane:
        raise PruningError("the code is too short or its parameters are none")
    ends = np.flatnonzero(np.unpackbits(content[k * plane :]))
    if ends.size != count:
        raise PruningError(f"the code has {ends.size} places, expected {count}")
    gaps = np.diff(ends, prepend=-1) - 1 << k
    for bit in range(k):
        low = np.unpackbits(content[bit * plane : (bit + 1) * plane], count=count)
        gaps |= low.astype(np.int64) << bit
    places = np.cumsum(gaps + 1) - 1
    if count and not 0 <= places.min() <= places.max() < size:
        raise PruningError("the code has places outside of the mask")
    mask = np.full(size, pruned)
    mask[places] = not pruned
    if np.count_nonzero(mask) != kept:
        raise PruningError("the code has places twice")
    return mask

"""Numbers that links connect: connected components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Link(NamedTuple):
    """Channels that are one neuron with others: numbers, or a stretch of them, place by place.

    Attributes:
      one, other: the numbers.
      distinct: whether no number is there twice on a side.
    """

    one: np.ndarray | slice
    other: np.ndarray | slice
    distinct: bool = False


def components(count: int, links: Sequence[Link]) -> np.ndarray:
    """Return, of each number, the least that it is connected with.

    Links go from first layers to last: there and back most of all is known.
    """
    least = np.arange(count)
    while True:
        before = least.copy()
        for one, other, distinct in (*links, *reversed(links)):
            meet = np.minimum(least[one], least[other])
            if distinct:
                least[one], least[other] = meet, meet
            else:
                np.minimum.at(least, one, meet)
                np.minimum.at(least, other, meet)
        if np.array_equal(least, before):
            return least

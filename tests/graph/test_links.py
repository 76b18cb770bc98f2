"""Components against a search from each number."""

import numpy as np
import pytest

from lap_jax.graph.links import Link, components


def searched(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    """The least number that each is connected with, one step at a time."""
    found = []
    for start in range(count):
        seen, waiting = {start}, [start]
        while waiting:
            here = waiting.pop()
            beside = {b for a, b in pairs if a == here} | {a for a, b in pairs if b == here}
            waiting += beside - seen
            seen |= beside
        found.append(min(seen))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_components_are_what_a_search_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 30, (2, 18))
    links = [Link(slice(0, 4), slice(10, 14), True), Link(one, other)]
    pairs = [*zip(range(4), range(10, 14), strict=True),
             *zip(one.tolist(), other.tolist(), strict=True)]  # fmt: skip
    assert components(30, links).tolist() == searched(30, pairs)

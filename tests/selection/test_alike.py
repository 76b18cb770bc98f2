"""Layers of about one size that share a search, against a stable sort of each."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lap_jax.selection import alike
from lap_jax.selection.alike import LARGEST, filled, select_alike, shares
from tests.programs import Counting

SHAPES = {"a": (3, 5), "b": (2, 7, 4), "c": (11, 13)}


def doubled(factor: float, x: jax.Array) -> tuple[Callable[..., jax.Array], tuple[Any, ...]]:
    return lambda x: factor * x, (x,)


def given(seed: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Scores with many ties, zeros among them."""
    rng = np.random.default_rng(seed)
    return {
        name: (2.0, (jnp.asarray(rng.integers(0, 4, shape), jnp.float32),), None)
        for name, shape in shapes.items()
    }


def largest(scores: np.ndarray, k: int) -> np.ndarray:
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores, axis=None, kind="stable")[:k]] = True
    return mask.reshape(scores.shape)


@pytest.fixture(params=["on the host", "elsewhere"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where arrays are taken to lie."""
    if request.param == "elsewhere":
        monkeypatch.setattr(alike, "on_host", lambda operands: False)
    return str(request.param)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_exactly_as_many_stay_and_of_equals_the_first(share: float) -> None:
    layers = given(0, SHAPES)
    kept = {name: np.uint32(share * np.prod(shape)) for name, shape in SHAPES.items()}
    masks = select_alike(doubled, layers, SHAPES, kept)
    for name, (_, (scores,), _) in layers.items():
        np.testing.assert_array_equal(masks[name], largest(np.asarray(scores), int(kept[name])))


@pytest.mark.usefixtures("place")
def test_what_takes_no_part_comes_after_zeros() -> None:
    scores = jnp.asarray([[0.0, 5.0, 0.0], [5.0, 1.0, 0.0]])
    where = jnp.asarray([[True, False, True], [False, True, True]])
    layers = {"a": (1.0, (scores,), where)}
    for kept, stay in ((1, [4]), (3, [0, 2, 4]), (5, [0, 1, 2, 4, 5])):
        masks = select_alike(doubled, layers, {"a": (2, 3)}, {"a": np.uint32(kept)})
        assert np.flatnonzero(masks["a"]).tolist() == stay


def test_a_layer_of_a_new_shape_does_not_compile_the_search_again(
    count_compilations: Counting, place: str
) -> None:
    kept = dict.fromkeys(SHAPES, np.uint32(3))
    select_alike(doubled, given(1, SHAPES), SHAPES, kept)
    shapes = {name: (*shape, 3) for name, shape in SHAPES.items()}
    layers = given(1, shapes)
    with count_compilations() as compiled:
        select_alike(doubled, layers, shapes, kept)
    programs = {"on the host": 1, "elsewhere": 2}[place]
    assert 0 < len(compiled) <= programs * len(shapes), compiled


def test_scores_that_a_twin_tells_compile_nothing(count_compilations: Counting) -> None:
    shapes = {"a": (3, 5, 2), "b": (2, 7, 4, 3)}
    layers = given(2, shapes)
    kept = dict.fromkeys(shapes, np.uint32(7))

    def twin(factor: float, x: np.ndarray) -> np.ndarray | None:
        return np.float32(factor) * x if x.ndim > 3 else None

    wanted = select_alike(doubled, layers, shapes, kept)
    with count_compilations() as compiled:
        masks = select_alike(doubled, layers, shapes, kept, twin)
    assert compiled == []
    for name in shapes:
        np.testing.assert_array_equal(masks[name], wanted[name])
        assert isinstance(masks[name], jax.Array)


def test_sizes_are_filled_up_to_few() -> None:
    found = [filled(size) for size in range(1, 2**17, 37)]
    assert set(found) == {2**10, 2**12, 2**14, 2**16, 2**17}
    assert all(size <= full for size, full in zip(range(1, 2**17, 37), found, strict=True))


def test_large_traced_and_spread_layers_are_searched_alone() -> None:
    x = jnp.ones((8, 4))
    assert shares((8, 4), (x, None, 3))
    large = (1, LARGEST + 1)
    assert shares(large, (x,))  # small arrays in the host's memory, for a shape that is not
    assert not shares(large, (jnp.zeros(large, bool),))
    jax.eval_shape(lambda x: pytest.fail("shares a trace") if shares((8, 4), x) else x, x)
    spread = NamedSharding(Mesh(np.array(jax.devices()[:2]), "d"), PartitionSpec("d"))
    assert not shares((8, 4), jax.device_put(x, spread))

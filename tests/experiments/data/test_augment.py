from collections.abc import Iterator

import chex
import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.augment import black, crop_and_flip

FILL = jnp.array([-2.0, -3.0], jnp.float32)

Window = tuple[int, int, bool]
"""Top, left, and whether it is mirrored."""


def _images(batch: int, height: int, width: int) -> np.ndarray:
    """Images in which no pixel value comes twice."""
    rng = np.random.default_rng(0)
    return rng.permutation(batch * height * width * 2).reshape(batch, height, width, 2)


def _windows(image: np.ndarray, padding: int) -> Iterator[tuple[Window, np.ndarray]]:
    """Every (top, left, mirrored) and what it gives, by plain slicing."""
    height, width, _ = image.shape
    padded = np.empty((height + 2 * padding, width + 2 * padding, 2), np.float32)
    padded[:] = FILL
    padded[padding : padding + height, padding : padding + width] = image
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            window = padded[top : top + height, left : left + width]
            yield (top, left, False), window
            yield (top, left, True), window[:, ::-1]


def _found(image: np.ndarray, output: np.ndarray, padding: int) -> Window:
    """Which window an output is: the only one that it equals."""
    (found,) = [
        which for which, window in _windows(image, padding) if np.array_equal(window, output)
    ]
    return found


def test_every_output_is_a_window_of_its_own_image_each_equally_often() -> None:
    padding, draws = 2, 100
    images = _images(20, 7, 6).astype(np.float32)
    augment = jax.jit(crop_and_flip, static_argnames="padding")
    counts = dict.fromkeys([which for which, _ in _windows(images[0], padding)], 0)
    for draw in range(draws):
        outputs = np.asarray(augment(jax.random.key(draw), images, FILL, padding=padding))
        for image, output in zip(images, outputs, strict=True):
            counts[_found(image, output, padding)] += 1
    expected = len(images) * draws / len(counts)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert len(counts) == 50
    assert chi_square < 108  # the 1 - 2e-6 quantile of 49 degrees of freedom


def test_the_papers_windows_are_81_and_32_by_32() -> None:
    images = np.tile(_images(1, 32, 32).astype(np.float32), (2000, 1, 1, 1))
    outputs = np.asarray(jax.jit(crop_and_flip)(jax.random.key(0), images, FILL))
    chex.assert_equal_shape([outputs, images])
    windows = {window.tobytes() for _, window in _windows(images[0], 4)}
    assert {output.tobytes() for output in outputs} == windows
    assert len(windows) == 162


def test_the_key_decides() -> None:
    images = jnp.asarray(_images(30, 5, 5), jnp.float32)
    first, again, other = (crop_and_flip(jax.random.key(i), images, FILL) for i in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()


def test_networks_side_by_side_get_what_each_would_get_alone() -> None:
    images = jnp.asarray(_images(3 * 4, 5, 5), jnp.bfloat16).reshape(3, 4, 5, 5, 2)
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(crop_and_flip, in_axes=(0, 0, None)))(keys, images, FILL)
    chex.assert_type(together, jnp.bfloat16)
    alone = [crop_and_flip(key, own, FILL) for key, own in zip(keys, images, strict=True)]
    chex.assert_trees_all_equal(list(together), alone)


def test_without_padding_only_mirroring_is_left() -> None:
    images = _images(40, 4, 3).astype(np.float32)
    outputs = np.asarray(crop_and_flip(jax.random.key(0), jnp.asarray(images), FILL, padding=0))
    mirrored = [_found(*pair, 0)[2] for pair in zip(images, outputs, strict=True)]
    assert 8 < sum(mirrored) < 32


def test_black_is_the_raw_zero() -> None:
    raw = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3)).astype(np.float32)
    raw[3, 1, 2] = 0
    mean, std = raw.mean((0, 1, 2)), raw.std((0, 1, 2))
    chex.assert_trees_all_equal(black(jnp.asarray((raw - mean) / std)), (0 - mean) / std)

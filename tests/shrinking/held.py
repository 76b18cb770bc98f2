"""A small network held against the masked one, at other inputs than those it was made with."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

import lap_jax

Model = Callable[..., Any]


def held(
    model: Model, params: Any, x: Any, shapes: Mapping[str, tuple[int, ...]] | None = None,
    masks: Any = None, full: int = 0, **options: Any,
) -> lap_jax.Small:  # fmt: skip
    """Shrink a model; compare outputs at twice the batch, and shapes of leaves with those given."""
    small = lap_jax.shrink(model, params, masks, x, **options)
    masked = params if masks is None else lap_jax.apply_masks(params, masks)
    more = jnp.concatenate([x, x[::-1]]) if jnp.ndim(x) else x
    chex.assert_trees_all_close(
        small.apply(small.variables, more), model(masked, more), rtol=1e-5, atol=1e-5
    )
    assert len(small.at_full_size) == full, small.at_full_size
    if shapes is not None:
        found = {path: each.small for path, each in small.kept.items()}
        assert found == shapes, str(small)
    return small


def normal(*shape: int, seed: int = 0, zero: tuple[Any, ...] = ()) -> jax.Array:
    """Return random numbers, with noughts at some places."""
    array = np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)
    for place in zero:
        array[place] = 0
    return jnp.asarray(array)


ALL = slice(None)

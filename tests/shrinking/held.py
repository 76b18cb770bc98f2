"""A small network held against the masked one, at other inputs than those it was made with."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

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


def trains_alike(
    net: nn.Module, small: lap_jax.Small, variables: Any, masks: Any, x: Any, labels: Any
) -> None:
    """Train the masked network and the small one for a hundred steps of adam: equal to 1e-5.

    With batch statistics and dropout.
    """

    def trained(apply: Any, variables: Any, masks: Any, state: Any) -> tuple[Any, Any]:
        optimizer = lap_jax.keep_pruned(optax.adam(1e-2), masks["params"])

        def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
            variables, state = carry

            def loss(params: Any) -> tuple[jax.Array, Any]:
                given = {**variables, "params": params}
                logits, changed = apply(
                    given, x, train=True, mutable=["batch_stats"], rngs={"dropout": key}
                )
                losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
                return losses.mean(), changed

            gradient, changed = jax.grad(loss, has_aux=True)(variables["params"])
            updates, state = optimizer.update(gradient, state, variables["params"])
            params = optax.apply_updates(variables["params"], updates)
            return ({"params": params, **changed}, state), None

        carry = variables, state
        keys = jax.random.split(jax.random.key(1), 100)
        return jax.lax.scan(step, carry, keys)[0]

    state = lap_jax.keep_pruned(optax.adam(1e-2), masks["params"]).init(variables["params"])
    large, large_state = jax.jit(lambda: trained(net.apply, variables, masks, state))()
    left = small.slice(masks), small.slice(state)
    found, found_state = jax.jit(lambda: trained(small.apply, small.variables, *left))()
    chex.assert_trees_all_close(small.slice(large), found, atol=1e-5)
    chex.assert_trees_all_close(small.slice(large_state), found_state, atol=1e-5)
    np.testing.assert_allclose(
        np.asarray(net.apply(small.grow(found), x)), small.apply(found, x), rtol=1e-4, atol=1e-5
    )


def normal(*shape: int, seed: int = 0, zero: tuple[Any, ...] = ()) -> jax.Array:
    """Return random numbers, with noughts at some places."""
    array = np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)
    for place in zero:
        array[place] = 0
    return jnp.asarray(array)


ALL = slice(None)

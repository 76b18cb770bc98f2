"""What a small network says of itself."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lap_jax
from tests.shrinking.held import ALL, normal


def test_the_table_and_its_numbers() -> None:
    params = {"a": normal(4, 5, zero=((ALL, [1, 2]),)), "b": normal(5, 2)}
    small = lap_jax.shrink(
        lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, None, normal(3, 4)
    )
    assert small.parameters == (30, 18)
    assert small.work == (3 * 30, 3 * 18)
    assert str(small).splitlines() == [
        "leaf           before  after   left",
        "-------------  ------  -----  -----",
        "a                 4x5    4x3  60.0%",
        "b                 5x2    3x2  60.0%",
        "total              30     18  60.0%",
        "multiply-adds      90     54  60.0%",
    ]


def test_grown_weights_are_those_of_the_large_network() -> None:
    params = {"a": normal(4, 5, zero=((ALL, [1, 2]),)), "b": normal(5, 2)}

    def model(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ p["a"]) @ p["b"]

    x = normal(3, 4)
    small = lap_jax.shrink(model, params, None, x)
    trained = jax.tree.map(lambda leaf: leaf * 1.5, small.variables)
    np.testing.assert_allclose(model(small.grow(trained), x), small.apply(trained, x), rtol=1e-5)
    np.testing.assert_array_equal(small.grow(small.variables)["b"], params["b"])
    half = small.slice({"b": jnp.ones((5, 2), bool)})
    assert half["b"].shape == (3, 2)


def test_packed_masks_of_a_state_are_cut_as_the_weights_are() -> None:
    """Cut and packed again: the same bits as the masks of the small network, packed."""
    params = {"a": normal(4, 12), "b": normal(12, 2)}
    masks = {"a": jnp.abs(params["a"]) > 0.4, "b": jnp.ones((12, 2), bool)}
    masks["a"] = masks["a"].at[:, 1:4].set(False)
    masks["b"] = masks["b"].at[1:4].set(False)

    def model(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ p["a"]) @ p["b"]

    small = lap_jax.shrink(model, params, masks, normal(3, 4), fold=False)
    optimizer = lap_jax.keep_pruned(optax.adam(0.1), masks, pack=True)
    state = small.slice(optimizer.init(lap_jax.apply_masks(params, masks)))
    again = lap_jax.keep_pruned(optax.adam(0.1), small.slice(masks), pack=True)
    chex.assert_trees_all_equal(state, again.init(small.variables))
    assert state.masks["a"].shape == (4, 2)  # 9 columns are left

import chex
import jax
import jax.numpy as jnp
import pytest

from experiments.networks.charlm import CharLM

KEY = jax.random.key(0, impl="rbg")


def test_language_model_does_not_look_ahead() -> None:
    model = CharLM(128, width=16, depth=2, heads=2)
    x = jax.random.randint(KEY, (2, 12), 0, 128)
    variables = model.init(KEY, x)
    changed = x.at[:, 7].add(1)
    apply = jax.jit(model.apply)
    before, after = apply(variables, x), apply(variables, changed)
    chex.assert_shape(before, (2, 12, 128))
    chex.assert_trees_all_close(before[:, :7], after[:, :7], atol=1e-6)
    assert jnp.abs(before - after)[:, 7:].max((0, 2)).min() > 1e-4
    chex.assert_trees_all_equal(before, apply(variables, x.astype(jnp.float32)))


def test_blocks_may_have_heads_and_neurons_of_their_own() -> None:
    model = CharLM(128, width=16, depth=2, heads=4).with_widths((12, 3, 20, 1, 9))
    params = model.init(KEY, jnp.zeros((1, 5), int))["params"]
    assert params["embed"]["embedding"].shape == (128, 12)
    assert params["Block_0"]["query"]["kernel"].shape == (12, 3 * 4)  # heads keep their size
    assert params["Block_1"]["out"]["kernel"].shape == (4, 12)
    assert params["Block_1"]["up"]["kernel"].shape == (12, 9)
    assert model.widths_in(params) == (12, 3, 20, 1, 9)
    with pytest.raises(ValueError, match="3 widths, where the network has 5"):
        model.with_widths((12, 3, 20))

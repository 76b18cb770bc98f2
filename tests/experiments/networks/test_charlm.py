import chex
import jax
import jax.numpy as jnp

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

"""Hugging Face's Flax decoders: pruned, saved, and loaded by their own class of smaller widths."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lap_jax
from tests.shrinking.held import normal

LARGE: dict[str, Any] = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=4,
    intermediate_size=24, vocab_size=20, max_position_embeddings=16, pad_token_id=0,
)  # fmt: skip
SMALLER = LARGE | dict(num_attention_heads=4, num_key_value_heads=2, intermediate_size=12)
TOKENS = jnp.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])


def rescaled(params: Any, ratio: float) -> Any:
    """Scale the weights of norms, whose mean is now over fewer channels."""

    def change(path: Any, leaf: Any) -> Any:
        return leaf * ratio**0.5 if "norm" in jax.tree_util.keystr(path) else leaf

    return jax.tree_util.tree_map_with_path(change, params)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Llama", "Gemma"])
def test_the_same_class_loads_a_small_decoder(name: str, tmp_path: Path) -> None:
    """Of Llama, whose heads are of the width divided by their number, the width goes along."""
    transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed")
    config = getattr(transformers, f"{name}Config")
    kind = getattr(transformers, f"Flax{name}ForCausalLM", None)
    if kind is None:
        pytest.skip(f"this version of transformers has no Flax{name}ForCausalLM")
    levels = {"heads": 0.5, "neurons": 0.5, "streams": 0.5 if name == "Llama" else 0.0}
    given = {"head_dim": 4} if name == "Gemma" else {}
    large = kind(config(**LARGE, **given), seed=0)
    params = jax.tree.map(lambda leaf: leaf + 0.2 * normal(*leaf.shape), large.params)

    def function(params: Any, tokens: jax.Array) -> jax.Array:
        logits: jax.Array = large(tokens, params=params).logits
        return logits

    graph = lap_jax.trace(function, params, TOKENS)
    scope = lap_jax.Scope(unit="neuron", uniform=True)
    masks = lap_jax.lookahead_masks(params, graph, levels, scope=scope)
    small = lap_jax.shrink(function, params, masks, TOKENS)

    own, fewer = small.variables, SMALLER | given
    if name == "Llama":
        own = rescaled(own, 32 / 16)
        fewer |= dict(hidden_size=16, rms_norm_eps=large.config.rms_norm_eps * 32 / 16)
    kind(config(**fewer), _do_init=False).save_pretrained(tmp_path, params=own)
    smaller = kind.from_pretrained(tmp_path)
    assert jax.tree.map(jnp.shape, smaller.params) == jax.tree.map(jnp.shape, small.variables)
    kernels = small.variables["model"]["layers"]["1"]
    width = fewer["hidden_size"]
    assert kernels["mlp"]["gate_proj"]["kernel"].shape == (width, 12)
    assert kernels["self_attn"]["k_proj"]["kernel"].shape == (width, 8)

    more = (TOKENS + 7) % 20
    expected = np.asarray(function(lap_jax.apply_masks(params, masks), more))
    found = np.asarray(smaller(more).logits)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    words = smaller.generate(TOKENS, max_length=10, do_sample=False).sequences
    large.params = lap_jax.apply_masks(params, masks)
    np.testing.assert_array_equal(
        words, large.generate(TOKENS, max_length=10, do_sample=False).sequences
    )

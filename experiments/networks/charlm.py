"""Language models of characters, a small one and one of six million parameters."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from experiments.networks.setting import Setting
from experiments.networks.vit import POSITIONS, Block


class CharLM(nn.Module):
    """Embeddings, learned positions, causal blocks, a norm, a dense layer of its own."""

    classes: int
    width: int = 64
    depth: int = 3
    heads: int = 4
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Return logits ``[batch, tokens, classes]`` of every next character.

        Args:
          x: characters below ``classes``, ``[batch, tokens]``; whole numbers, of any dtype.
          train: changes nothing.
        """
        x = nn.Embed(self.classes, self.width, dtype=self.dtype, name="embed")(x.astype(jnp.int32))
        x = x + self.param("positions", POSITIONS, x.shape[1:]).astype(x.dtype)
        for _ in range(self.depth):
            x = Block(self.heads, 4 * self.width, causal=True, dtype=self.dtype)(x)
        x = nn.LayerNorm(dtype=self.dtype)(x).astype(jnp.float32)
        return nn.Dense(self.classes, name="head")(x)


_SMALL = Setting(
    lambda classes, _: CharLM(classes), "python_reference", (), (2, 4, 6, 8), 1_000, 300,
    learning_rate=1e-3, activation="none", unpruned=("embed", "head"), whole=("embed", "head"),
)  # fmt: skip

SETTINGS = {
    "charlm": _SMALL,
    "charlm6m": _SMALL._replace(
        build=lambda classes, _: CharLM(classes, width=288, depth=6, heads=6),
        dataset="python_source", train_steps=6_000,
    ),
}  # fmt: skip

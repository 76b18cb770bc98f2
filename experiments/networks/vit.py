"""A small vision transformer, and the block that it shares with the language model."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from experiments.networks.setting import Setting

POSITIONS = nn.initializers.normal(0.02)


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))`` (pre-norm, GELU).

    Attributes:
      head_size: channels of a head; 0: the width's share.
    """

    heads: int
    hidden: int
    head_size: int = 0
    causal: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, tokens, width] -> [batch, tokens, width]``."""
        width = x.shape[-1]
        size = self.head_size or width // self.heads
        y = nn.LayerNorm(dtype=self.dtype)(x)
        query, key, value = (
            nn.Dense(self.heads * size, dtype=self.dtype, name=name)(y).reshape(
                *y.shape[:2], self.heads, size
            )
            for name in ("query", "key", "value")
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / size**0.5
        if self.causal:
            seen = jnp.tril(jnp.ones(scores.shape[-2:], bool))
            scores = jnp.where(seen, scores, jnp.finfo(scores.dtype).min)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), value).reshape(*y.shape[:2], -1)
        x = x + nn.Dense(width, dtype=self.dtype, name="out")(mixed)
        y = nn.LayerNorm(dtype=self.dtype)(x)
        y = nn.gelu(nn.Dense(self.hidden, dtype=self.dtype, name="up")(y))
        return x + nn.Dense(width, dtype=self.dtype, name="down")(y)


class ViT(nn.Module):
    """Patches as tokens, learned positions, blocks, a norm, the mean of the tokens, a dense layer.

    Dosovitskiy et al. (2021), with the mean in place of the class token.
    """

    classes: int
    width: int = 64
    depth: int = 4
    heads: int = 4
    patch: int = 4
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Return logits ``[batch, classes]``; ``train`` changes nothing."""
        window = (self.patch, self.patch)
        x = nn.Conv(self.width, window, window, "VALID", dtype=self.dtype, name="patches")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        x = x + self.param("positions", POSITIONS, x.shape[1:]).astype(x.dtype)
        for _ in range(self.depth):
            x = Block(self.heads, 4 * self.width, dtype=self.dtype)(x)
        x = nn.LayerNorm(dtype=self.dtype)(x).mean(1, dtype=jnp.float32)
        return nn.Dense(self.classes, name="head")(x)


SETTINGS = {
    "vit": Setting(
        lambda classes, _: ViT(classes), "cifar10", (), (2, 4, 6, 8), 1_000, 300,
        learning_rate=1e-3, activation="none", unpruned=("patches", "head"),
        whole=("patches", "head"), side=4,
    )
}  # fmt: skip

"""Language models of characters, a small one and one of six million parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from experiments.networks.parts import checked, each
from experiments.networks.setting import Setting
from experiments.networks.vit import POSITIONS, Block


class CharLM(nn.Module):
    """Embeddings, learned positions, causal blocks, a norm, a dense layer of its own.

    Attributes:
      width: of the residual stream.
      heads: of every block, or of each.
      hidden: neurons of each block; none: four times the width.
      head_size: channels of a head; 0: the width's share.
    """

    classes: int
    width: int = 64
    depth: int = 3
    heads: int | Sequence[int] = 4
    hidden: Sequence[int] = ()
    head_size: int = 0
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
        hidden = self.hidden or (4 * self.width,) * self.depth
        for heads, neurons in zip(each(self.heads, self.depth), hidden, strict=True):
            x = Block(heads, neurons, self.head_size, causal=True, dtype=self.dtype)(x)
        x = nn.LayerNorm(dtype=self.dtype)(x).astype(jnp.float32)
        return nn.Dense(self.classes, name="head")(x)

    def with_widths(self, widths: Sequence[int]) -> CharLM:
        """Return the model with the width of the stream, then heads and neurons of each block."""
        width, *blocks = checked(widths, 1 + 2 * self.depth)
        return self.clone(
            width=width, heads=tuple(blocks[::2]), hidden=tuple(blocks[1::2]),
            head_size=self._head_size,
        )  # fmt: skip

    def widths_in(self, params: Any) -> tuple[int, ...]:
        """Return the widths of what is left of the model, as `with_widths` takes them."""
        found = [params["embed"]["embedding"].shape[-1]]
        for i in range(self.depth):
            block = params[f"Block_{i}"]
            heads = block["value"]["kernel"].shape[-1] / self._head_size
            found += [math.ceil(heads), block["up"]["kernel"].shape[-1]]
        return tuple(found)

    @property
    def _head_size(self) -> int:
        return self.head_size or self.width // each(self.heads, self.depth)[0]


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

"""Layers of Flax itself, Linen and NNX."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from experiments.benchmarks.models.example import Example, noise, tokens
from experiments.benchmarks.models.row import Entry


class ConvNet(nn.Module):
    """Convolutions of several kinds, and a dense layer behind a flatten."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Classify images."""
        x = nn.relu(nn.GroupNorm(4, dtype=self.dtype)(nn.Conv(8, (3, 3), dtype=self.dtype)(x)))
        y = nn.Conv(8, (3, 3), feature_group_count=8, dtype=self.dtype)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=True, dtype=self.dtype)(y))
        x = nn.avg_pool(jnp.concatenate([x, y], -1), (2, 2), (2, 2))
        x = nn.ConvTranspose(6, (2, 2), (2, 2), dtype=self.dtype)(x)
        x = nn.ConvLocal(5, (2, 2), (2, 2), dtype=self.dtype)(nn.relu(x))
        return nn.Dense(10, dtype=self.dtype)(x.reshape(len(x), -1))


class MLP(nn.Module):
    """Dense layers, one of them over two axes, and an einsum."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Go through them."""
        x = nn.relu(nn.Dense(12, dtype=self.dtype)(x))
        x = nn.gelu(nn.DenseGeneral((3, 4), dtype=self.dtype)(x))
        x = nn.silu(nn.DenseGeneral(6, axis=(-2, -1), dtype=self.dtype)(x))
        return nn.Einsum((6, 5), "...i,io->...o", dtype=self.dtype)(x)


class Encoder(nn.Module):
    """A block of a transformer."""

    dtype: Any
    scanned: bool = False

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Encode tokens."""
        x = nn.Embed(20, 16, dtype=self.dtype)(ids)
        if self.scanned:
            stack = nn.scan(
                Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
            )
            x, _ = stack(self.dtype)(x, None)
        else:
            for _ in range(2):
                x, _ = Block(self.dtype)(x)
        return nn.Dense(20, dtype=self.dtype)(nn.RMSNorm(dtype=self.dtype)(x))


class Block(nn.Module):
    """Attention and an MLP, each behind a norm."""

    dtype: Any
    width: int = 16
    heads: int = 2
    hidden: int = 24

    @nn.compact
    def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
        """Add both to what they read."""
        y = nn.LayerNorm(dtype=self.dtype)(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype)(y)
        y = nn.Dense(self.hidden, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))
        return x + nn.Dense(self.width, dtype=self.dtype)(nn.gelu(y)), None


class ViT(nn.Module):
    """An encoder of patches that reads their mean."""

    layers: int
    width: int
    heads: int
    hidden: int
    patch: int
    classes: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Classify images."""
        size = (self.patch, self.patch)
        x = nn.Conv(self.width, size, size, "VALID", dtype=self.dtype)(x)
        x = x.reshape(len(x), -1, self.width)
        start = nn.initializers.normal(0.02)
        x = x + self.param("positions", start, x.shape[1:]).astype(x.dtype)
        for _ in range(self.layers):
            x, _ = Block(self.dtype, self.width, self.heads, self.hidden)(x)
        x = nn.LayerNorm(dtype=self.dtype)(x).mean(1)
        return nn.Dense(self.classes, dtype=self.dtype)(x)


class Recurrent(nn.Module):
    """A loop over time."""

    cell: Callable[..., Any]

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Classify by the last state."""
        x = nn.Dense(8)(nn.Embed(20, 8)(ids))
        states: Any = nn.RNN(self.cell(8))(x)
        return nn.Dense(3)(states[:, -1])


class NnxNet(nnx.Module):
    """A convolution, attention over its positions, a low-rank layer."""

    def __init__(self, dtype: Any):
        """Make the weights."""
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(3, 8, (3, 3), strides=2, dtype=dtype, rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=True, dtype=dtype, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, dtype=dtype, rngs=rngs)
        self.up = nnx.LinearGeneral(8, (4, 4), dtype=dtype, rngs=rngs)
        self.down = nnx.LinearGeneral((4, 4), 8, axis=(-2, -1), dtype=dtype, rngs=rngs)
        self.lora = nnx.LoRALinear(8, 6, lora_rank=2, dtype=dtype, rngs=rngs)
        self.head = nnx.Einsum("...i,io->...o", (6, 5), (5,), dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> Any:
        """Classify images."""
        x = nnx.relu(self.norm(self.conv(x)))
        x = x.reshape(len(x), -1, x.shape[-1])
        x = x + self.attention(x)
        x = x + self.down(nnx.gelu(self.up(x)))
        return self.head(nnx.relu(self.lora(x)))


def linen(module: nn.Module, *inputs: jax.Array, **static: Any) -> Example:
    """Return a Linen module as an example."""
    variables = jax.jit(module.init, static_argnames=tuple(static))(
        jax.random.key(0), *inputs, **static
    )
    return Example(lambda variables, *x: module.apply(variables, *x, **static), variables, inputs)


def of_nnx(module: Any, *inputs: Any, **static: Any) -> Example:
    """Return an NNX module as an example, as it is after training."""
    module.eval()
    graphdef, state = nnx.split(module)
    return Example(lambda state, *x: nnx.merge(graphdef, state)(*x, **static), state, inputs)


def _recurrent(cell: Callable[..., Any]) -> Example:
    return linen(Recurrent(cell), tokens(2, 5))


def entries() -> list[Entry]:
    """Return the rows."""
    builds: dict[str, Callable[[Any], Example]] = {
        "Linen MLP": lambda dtype: linen(MLP(dtype), noise(3, 8)),
        "Linen convolutions": lambda dtype: linen(ConvNet(dtype), noise(2, 8, 8, 3)),
        "Linen encoder": lambda dtype: linen(Encoder(dtype), tokens(2, 6)),
        "Linen encoder, scanned": lambda dtype: linen(Encoder(dtype, True), tokens(2, 6)),
        "Linen ViT": lambda dtype: linen(ViT(2, 16, 2, 24, 4, 5, dtype), noise(2, 8, 8, 3)),
        "NNX network": lambda dtype: of_nnx(NnxNet(dtype), noise(2, 8, 8, 3)),
    }
    cells = {"LSTM": nn.OptimizedLSTMCell, "GRU": nn.GRUCell, "SimpleCell": nn.SimpleCell}
    found = [
        Entry("flax", name, dtype, partial(build, jnp.dtype(dtype)), "flax")
        for dtype in ("float32", "bfloat16")
        for name, build in builds.items()
    ]
    found += [
        Entry("flax", f"Linen {name}", "float32",
              partial(_recurrent, cell), "flax")
        for name, cell in cells.items()
    ]  # fmt: skip
    return found

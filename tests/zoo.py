"""Well-known networks in their plainest form, to be read by `lap_jax.trace`.

Sizes are arguments, with the published ones as defaults where there are any: tests take few and
narrow layers. Images are ``[batch, h, w, channels]``, tokens ``[batch, length]``. First in Linen,
then some of them in NNX.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

conv = partial(nn.Conv, use_bias=False)
batch_norm = partial(nn.BatchNorm, use_running_average=True)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool = False) -> jax.Array:
    """``[batch, length, heads, size]`` each; the heads come out side by side."""
    weights = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(q.shape[-1])
    if causal:
        mask = jnp.tril(jnp.ones(weights.shape[-2:], bool))
        weights = jnp.where(mask, weights, jnp.finfo(weights.dtype).min)
    x = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(weights), v)
    return x.reshape(*x.shape[:2], -1)


def attend_in_groups(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Causal, with fewer heads in ``k`` and ``v``: nothing is repeated."""
    batch, length, heads, size = q.shape
    q = q.reshape(batch, length, k.shape[2], -1, size)
    weights = jnp.einsum("bqgrd,bkgd->bgrqk", q, k) / jnp.sqrt(size)
    mask = jnp.tril(jnp.ones((length, length), bool))
    weights = jax.nn.softmax(jnp.where(mask, weights, jnp.finfo(weights.dtype).min))
    return jnp.einsum("bgrqk,bkgd->bqgrd", weights, v).reshape(batch, length, heads * size)


def rotate(x: jax.Array) -> jax.Array:
    """Rotary positions: channels d and d + size / 2 of a head turn together."""
    half = x.shape[-1] // 2
    frequencies = 10_000.0 ** (-jnp.arange(half) / half)
    angles = jnp.arange(x.shape[1])[:, None, None] * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    one, two = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([one * cos - two * sin, two * cos + one * sin], axis=-1)


# ---------------------------------------------------------------- Linen: images


class MLP(nn.Module):
    """Dense layers on the flattened image."""

    widths: Sequence[int] = (300, 100, 10)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for width in self.widths[:-1]:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.widths[-1])(x)


class ConvNet(nn.Module):
    """Convolution, pool, flatten, two dense layers: LeNet's kind."""

    widths: Sequence[int] = (32, 64)
    hidden: int = 128
    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.widths:
            x = nn.max_pool(nn.relu(nn.Conv(width, (3, 3))(x)), (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(self.hidden)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.classes)(x)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 around a shortcut (He et al., 2016)."""

    width: int
    stride: int
    project: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = partial(nn.BatchNorm, use_running_average=not train)
        y = nn.relu(norm()(conv(self.width, (1, 1))(x)))
        y = nn.relu(norm()(conv(self.width, (3, 3), strides=self.stride)(y)))
        y = norm()(conv(4 * self.width, (1, 1))(y))
        if self.project:
            x = conv(4 * self.width, (1, 1), strides=self.stride, name="shortcut")(x)
            x = norm(name="shortcut_norm")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet-50 (He et al., 2016)."""

    depths: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = conv(self.width, (7, 7), strides=2)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for stage, depth in enumerate(self.depths):
            for block in range(depth):
                stride = 2 if stage and not block else 1
                x = Bottleneck(self.width * 2**stage, stride, not block)(x, train)
        return nn.Dense(self.classes)(x.mean((1, 2)))


class PreActivation(nn.Module):
    """Norm and activation before each convolution; where the shape changes a 1x1 shortcut."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(batch_norm()(x))
        if x.shape[-1] != self.width:
            x = conv(self.width, (1, 1), strides=self.stride, name="shortcut")(y)
        y = nn.relu(batch_norm()(conv(self.width, (3, 3), strides=self.stride)(y)))
        return x + conv(self.width, (3, 3))(y)


class WideResNet(nn.Module):
    """WRN-28-10 (Zagoruyko & Komodakis, 2016)."""

    depth: int = 4
    widths: Sequence[int] = (16, 160, 320, 640)
    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = conv(self.widths[0], (3, 3))(x)
        for stage, width in enumerate(self.widths[1:]):
            for block in range(self.depth):
                x = PreActivation(width, 2 if stage and not block else 1)(x)
        x = nn.relu(batch_norm()(x))
        return nn.Dense(self.classes)(x.mean((1, 2)))


class InvertedResidual(nn.Module):
    """Wide inside, by depthwise convolution; narrow and linear outside."""

    width: int
    stride: int
    expansion: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y, hidden = x, self.expansion * x.shape[-1]
        if self.expansion > 1:
            y = nn.relu6(batch_norm()(conv(hidden, (1, 1), name="expand")(y)))
        y = conv(hidden, (3, 3), strides=self.stride, feature_group_count=hidden, name="depthwise")(
            y
        )
        y = nn.relu6(batch_norm()(y))
        y = batch_norm()(conv(self.width, (1, 1), name="project")(y))
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al., 2018); rows are (expansion, width, blocks, first stride)."""

    rows: Sequence[tuple[int, int, int, int]] = (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    )  # fmt: skip
    stem: int = 32
    last: int = 1280
    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu6(batch_norm()(conv(self.stem, (3, 3), strides=2)(x)))
        for expansion, width, blocks, stride in self.rows:
            for block in range(blocks):
                x = InvertedResidual(width, 1 if block else stride, expansion)(x)
        x = nn.relu6(batch_norm()(conv(self.last, (1, 1))(x)))
        return nn.Dense(self.classes)(x.mean((1, 2)))


class DenseLayer(nn.Module):
    """What it computes comes after what it reads."""

    growth: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = conv(4 * self.growth, (1, 1))(nn.relu(batch_norm()(x)))
        y = conv(self.growth, (3, 3))(nn.relu(batch_norm()(y)))
        return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
    """Half the channels, half the image."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = conv(x.shape[-1] // 2, (1, 1))(nn.relu(batch_norm()(x)))
        return nn.avg_pool(x, (2, 2), strides=(2, 2))


class DenseNet(nn.Module):
    """DenseNet-121 (Huang et al., 2017)."""

    depths: Sequence[int] = (6, 12, 24, 16)
    growth: int = 32
    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(batch_norm()(conv(2 * self.growth, (7, 7), strides=2)(x)))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for stage, depth in enumerate(self.depths):
            if stage:
                x = Transition()(x)
            for _ in range(depth):
                x = DenseLayer(self.growth)(x)
        x = nn.relu(batch_norm()(x))
        return nn.Dense(self.classes)(x.mean((1, 2)))


class UNet(nn.Module):
    """Down by max pooling, across by concatenation (Ronneberger et al., 2015).

    Attributes:
      resize: how `jax.image.resize` leads up, in place of a transposed convolution.
    """

    widths: Sequence[int] = (64, 128, 256, 512, 1024)
    classes: int = 2
    resize: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def twice(width: int, x: jax.Array, name: str) -> jax.Array:
            for part in "ab":
                x = nn.relu(nn.Conv(width, (3, 3), name=f"{name}{part}")(x))
            return x

        skips = []
        for level, width in enumerate(self.widths):
            if level:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            x = twice(width, x, f"down{level}")
            skips.append(x)
        for level, width in reversed(list(enumerate(self.widths[:-1]))):
            if self.resize:
                x = jax.image.resize(x, (*skips[level].shape[:3], x.shape[-1]), self.resize)
            else:
                x = nn.ConvTranspose(width, (2, 2), strides=(2, 2), name=f"raise{level}")(x)
            x = twice(width, jnp.concatenate([skips[level], x], axis=-1), f"up{level}")
        return nn.Conv(self.classes, (1, 1), name="head")(x)


# ---------------------------------------------------------------- Linen: transformers


class EncoderBlock(nn.Module):
    """Norms come first."""

    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + nn.MultiHeadDotProductAttention(self.heads, name="attention")(nn.LayerNorm()(x))
        y = nn.gelu(nn.Dense(self.hidden, name="up")(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1], name="down")(y)


class ViT(nn.Module):
    """ViT-B/16 (Dosovitskiy et al., 2021): reads a class token, or the mean."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    hidden: int = 3072
    patch: int = 16
    classes: int = 1000
    token: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, normal = (self.patch, self.patch), nn.initializers.normal(0.02)
        x = nn.Conv(self.width, size, strides=size, padding="VALID", name="patches")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        if self.token:
            token = self.param("token", normal, (1, 1, self.width))
            x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], axis=1)
        x = x + self.param("positions", normal, (1, *x.shape[1:]))
        for i in range(self.layers):
            x = EncoderBlock(self.heads, self.hidden, name=f"layers_{i}")(x)
        x = nn.LayerNorm()(x)
        return nn.Dense(self.classes, name="head")(x[:, 0] if self.token else x.mean(1))


class GPT2Block(nn.Module):
    """Queries, keys and values from one kernel."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        qkv = nn.Dense(3 * width, name="qkv")(nn.LayerNorm()(x))
        q, k, v = (
            part.reshape(*part.shape[:2], self.heads, -1) for part in jnp.split(qkv, 3, axis=-1)
        )
        x = x + nn.Dense(width, name="out")(attend(q, k, v, causal=True))
        y = nn.gelu(nn.Dense(4 * width, name="up")(nn.LayerNorm()(x)))
        return x + nn.Dense(width, name="down")(y)


class GPT2(nn.Module):
    """GPT-2 small (Radford et al., 2019): the token embedding is the head too."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    vocabulary: int = 50_257
    length: int = 1024

    @nn.compact
    def __call__(self, tokens: jax.Array, at: jax.Array | None = None) -> jax.Array:
        """``at`` has the positions of the tokens, where they do not follow each other."""
        embedding = nn.Embed(self.vocabulary, self.width, name="tokens")
        positions = nn.Embed(self.length, self.width, name="positions")
        x = embedding(tokens) + positions(jnp.arange(tokens.shape[1]) if at is None else at)
        for i in range(self.layers):
            x = GPT2Block(self.heads, name=f"layers_{i}")(x)
        return embedding.attend(nn.LayerNorm()(x))


class DecoderBlock(nn.Module):
    """Rotary positions, grouped queries, SwiGLU; carries ``x``, so that `nn.scan` can turn it."""

    heads: int
    kv_heads: int
    hidden: int
    repeat: bool = True
    head_size: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
        size = self.head_size or x.shape[-1] // self.heads
        dense = partial(nn.Dense, use_bias=False)
        y = nn.RMSNorm(name="before_attention")(x)
        q, k, v = (
            dense(heads * size, name=name)(y).reshape(*y.shape[:2], heads, size)
            for name, heads in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads))
        )
        q, k = rotate(q), rotate(k)
        if self.repeat:
            k, v = (jnp.repeat(part, self.heads // self.kv_heads, axis=2) for part in (k, v))
            y = attend(q, k, v, causal=True)
        else:
            y = attend_in_groups(q, k, v)
        x = x + dense(x.shape[-1], name="o")(y)
        y = nn.RMSNorm(name="before_mlp")(x)
        y = nn.silu(dense(self.hidden, name="gate")(y)) * dense(self.hidden, name="up")(y)
        return x + dense(x.shape[-1], name="down")(y), None


class Llama(nn.Module):
    """A decoder like Llama 3's; the defaults are those of its 70B.

    Attributes:
      head_size: of a head; None: the width's share.
      repeat: keys and values are repeated for their queries, in place of an einsum over groups.
      scan: one block turns over stacked parameters, in place of a loop in Python.
      remat: blocks are computed again in the backward pass.
    """

    layers: int = 80
    width: int = 8192
    heads: int = 64
    kv_heads: int = 8
    hidden: int = 28_672
    vocabulary: int = 128_256
    repeat: bool = True
    scan: bool = False
    remat: bool = False
    head_size: int | None = None

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Embed(self.vocabulary, self.width, name="tokens")(tokens)
        block: Any = nn.remat(DecoderBlock) if self.remat else DecoderBlock
        sizes = (self.heads, self.kv_heads, self.hidden, self.repeat, self.head_size)
        if self.scan:
            stacked = nn.scan(
                block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.layers
            )
            x, _ = stacked(*sizes, name="layers")(x, None)
        else:
            for i in range(self.layers):
                x, _ = block(*sizes, name=f"layers_{i}")(x)
        x = nn.RMSNorm(name="norm")(x)
        return nn.Dense(self.vocabulary, use_bias=False, name="head")(x)


class LSTM(nn.Module):
    """A classifier that reads the last state."""

    vocabulary: int = 1000
    width: int = 64
    hidden: int = 128
    classes: int = 2
    cell: Callable[..., nn.RNNCellBase] = nn.OptimizedLSTMCell

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        embedded = nn.Embed(self.vocabulary, self.width)(tokens)
        x: Any = nn.RNN(self.cell(self.hidden, name="cell"))(
            nn.relu(nn.Dense(self.width, name="inputs")(embedded))
        )
        return nn.Dense(self.classes, name="head")(x[:, -1])


# ---------------------------------------------------------------- NNX


class NnxMLP(nnx.Module):
    def __init__(self, widths: Sequence[int], rngs: nnx.Rngs):
        pairs = pairwise(widths)
        self.layers = nnx.List([nnx.Linear(n, m, rngs=rngs) for n, m in pairs])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


class NnxBlock(nnx.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int, rngs: nnx.Rngs):
        conv: Callable[..., nnx.Conv] = partial(nnx.Conv, use_bias=False, rngs=rngs)
        norm = partial(nnx.BatchNorm, width, use_running_average=True, rngs=rngs)
        self.conv1, self.norm1 = conv(width_in, width, (3, 3), strides=stride), norm()
        self.conv2, self.norm2 = conv(width, width, (3, 3)), norm()
        self.project = width_in != width
        if self.project:
            self.shortcut = conv(width_in, width, (1, 1), strides=stride)
            self.shortcut_norm = norm()

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return nnx.relu((self.shortcut_norm(self.shortcut(x)) if self.project else x) + y)


class NnxResNet(nnx.Module):
    """A small image's stem, blocks of two convolutions, one stage per width."""

    def __init__(self, depth: int, widths: Sequence[int], classes: int, rngs: nnx.Rngs):
        self.conv = nnx.Conv(3, widths[0], (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(widths[0], use_running_average=True, rngs=rngs)
        blocks, width_in = [], widths[0]
        for width in widths:
            for _ in range(depth):
                blocks.append(NnxBlock(width_in, width, 1 if width_in == width else 2, rngs))
                width_in = width
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(width_in, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class NnxEncoderBlock(nnx.Module):
    def __init__(self, width: int, heads: int, hidden: int, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class NnxViT(nnx.Module):
    """Reads the mean."""

    def __init__(
        self, layers: int, width: int, heads: int, hidden: int, patch: int, tokens: int,
        classes: int, rngs: nnx.Rngs,
    ):  # fmt: skip
        size = (patch, patch)
        self.patches = nnx.Conv(3, width, size, strides=size, padding="VALID", rngs=rngs)
        self.positions = nnx.Param(jnp.zeros((1, tokens, width)))
        self.layers = nnx.List([NnxEncoderBlock(width, heads, hidden, rngs) for _ in range(layers)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.patches(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1]) + self.positions[...]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


class NnxDecoderBlock(nnx.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int, rngs: nnx.Rngs):
        dense = partial(nnx.Linear, use_bias=False, rngs=rngs)
        size = width // heads
        self.size = size
        self.before_attention = nnx.RMSNorm(width, rngs=rngs)
        self.before_mlp = nnx.RMSNorm(width, rngs=rngs)
        self.q = dense(width, heads * size)
        self.k = dense(width, kv_heads * size)
        self.v = dense(width, kv_heads * size)
        self.o = dense(heads * size, width)
        self.gate, self.up = dense(width, hidden), dense(width, hidden)
        self.down = dense(hidden, width)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.before_attention(x)
        q, k, v = (
            part(y).reshape(*y.shape[:2], -1, self.size) for part in (self.q, self.k, self.v)
        )
        x = x + self.o(attend_in_groups(rotate(q), rotate(k), v))
        y = self.before_mlp(x)
        return x + self.down(nnx.silu(self.gate(y)) * self.up(y))


class NnxLlama(nnx.Module):
    def __init__(
        self, layers: int, width: int, heads: int, kv_heads: int, hidden: int, vocabulary: int,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        self.tokens = nnx.Embed(vocabulary, width, rngs=rngs)
        self.layers = nnx.List(
            [NnxDecoderBlock(width, heads, kv_heads, hidden, rngs) for _ in range(layers)]
        )
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, vocabulary, use_bias=False, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))

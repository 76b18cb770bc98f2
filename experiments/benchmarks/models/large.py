"""Decoders and an encoder of real size, of which there are only shapes."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.benchmarks.models.example import Example
from experiments.benchmarks.models.row import Entry


class Decoder(NamedTuple):
    """Sizes of a decoder with grouped queries and gated MLPs.

    Attributes:
      layers, width, heads, kv_heads, head, hidden, vocabulary: as usual.
      experts: of each block, two of which a token goes to; 0: none.
      norm_heads: whether queries and keys have norms of their own, as in Qwen3.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    hidden: int
    vocabulary: int
    experts: int = 0
    norm_heads: bool = False


DECODERS = {
    "Llama 3 8B": Decoder(32, 4096, 32, 8, 128, 14336, 128256),
    "Llama 3 70B": Decoder(80, 8192, 64, 8, 128, 28672, 128256),
    "Mixtral 8x7B": Decoder(32, 4096, 32, 8, 128, 14336, 32000, experts=8),
    "Qwen3 8B": Decoder(36, 4096, 32, 8, 128, 12288, 151936, norm_heads=True),
}
TOKENS = jax.ShapeDtypeStruct((1, 64), jnp.int32)
CHOSEN = 2


def entries() -> list[Entry]:
    """Return the rows."""
    decoders = [
        Entry("shapes alone", name, "bfloat16", partial(_decoder, sizes), weightless=True)
        for name, sizes in DECODERS.items()
    ]
    return [
        *decoders,
        Entry("shapes alone", "ViT-H/14", "bfloat16", _vit_huge, weightless=True),
    ]


def decoder_params(sizes: Decoder) -> Any:
    """Return the shapes of a decoder's parameters."""
    width, hidden = sizes.width, sizes.hidden
    queries, values = sizes.heads * sizes.head, sizes.kv_heads * sizes.head
    experts = (sizes.experts,) if sizes.experts else ()
    block = {
        "norm1": _shape(width), "q": _shape(width, queries), "k": _shape(width, values),
        "v": _shape(width, values), "o": _shape(queries, width), "norm2": _shape(width),
        "gate": _shape(*experts, width, hidden), "up": _shape(*experts, width, hidden),
        "down": _shape(*experts, hidden, width),
    }  # fmt: skip
    if experts:
        block["router"] = _shape(width, sizes.experts)
    if sizes.norm_heads:
        block |= {"q_norm": _shape(sizes.head), "k_norm": _shape(sizes.head)}
    return {
        "embedding": _shape(sizes.vocabulary, width),
        "blocks": [block] * sizes.layers,
        "norm": _shape(width),
        "head": _shape(width, sizes.vocabulary),
    }


def decode(sizes: Decoder, params: Any, ids: jax.Array) -> jax.Array:
    """Return the logits of a decoder."""
    x = params["embedding"][ids]
    for block in params["blocks"]:
        x = x + _attend(sizes, block, _norm(x, block["norm1"]))
        y = _norm(x, block["norm2"])
        x = x + (_mix(block, y) if sizes.experts else _gated(block, y))
    return _norm(x, params["norm"]) @ params["head"]


def _decoder(sizes: Decoder) -> Example:
    return Example(partial(decode, sizes), decoder_params(sizes), (TOKENS,))


def _shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.bfloat16)


def _norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt((wide**2).mean(-1, keepdims=True) + 1e-6)
    return wide.astype(x.dtype) * scale


def _attend(sizes: Decoder, block: Any, x: jax.Array) -> jax.Array:
    batch, length, _ = x.shape
    groups = sizes.heads // sizes.kv_heads
    q = (x @ block["q"]).reshape(batch, length, sizes.kv_heads, groups, sizes.head)
    k, v = (
        (x @ block[name]).reshape(batch, length, sizes.kv_heads, sizes.head) for name in ("k", "v")
    )
    if sizes.norm_heads:
        q, k = _norm(q, block["q_norm"]), _norm(k, block["k_norm"])
    q, k = _turned(q), _turned(k)
    weights = jnp.einsum("bqhgd,bkhd->bhgqk", q, k).astype(jnp.float32) * sizes.head**-0.5
    causal = jnp.tril(jnp.ones((length, length), bool))
    weights = jax.nn.softmax(jnp.where(causal, weights, -jnp.inf)).astype(v.dtype)
    found = jnp.einsum("bhgqk,bkhd->bqhgd", weights, v)
    return found.reshape(batch, length, -1) @ block["o"]


def _turned(x: jax.Array) -> jax.Array:
    """Turn pairs of channels by their positions' angles."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None] * 1e4 ** (-jnp.arange(half) / half)
    angles = angles.reshape(x.shape[1], *[1] * (x.ndim - 3), half)
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    first, second = jnp.split(x, 2, -1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def _gated(block: Any, x: jax.Array) -> jax.Array:
    return (jax.nn.silu(x @ block["gate"]) * (x @ block["up"])) @ block["down"]


def _mix(block: Any, x: jax.Array) -> jax.Array:
    """Let each token go through the experts, and weigh those that its router chose."""
    chances, chosen = jax.lax.top_k((x @ block["router"]).astype(jnp.float32), CHOSEN)
    weights = jax.nn.softmax(chances)[..., None] * jax.nn.one_hot(chosen, len(block["gate"]))
    inside = jax.nn.silu(jnp.einsum("btd,edf->btef", x, block["gate"]))
    inside = inside * jnp.einsum("btd,edf->btef", x, block["up"])
    found = jnp.einsum("btef,efd->bted", inside, block["down"])
    return jnp.einsum("bted,bte->btd", found, weights.sum(2).astype(x.dtype))


def _vit_huge() -> Example:
    from experiments.benchmarks.models.flax_layers import ViT

    net = ViT(32, 1280, 16, 5120, 14, 1000, jnp.dtype("bfloat16"))
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), images)
    return Example(net.apply, variables, (images,))

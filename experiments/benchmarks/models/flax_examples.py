"""The models of Flax's examples, from a checkout of its repository."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.models.checkouts import imported
from experiments.benchmarks.models.example import Example, noise, tokens
from experiments.benchmarks.models.flax_layers import linen, of_nnx
from experiments.benchmarks.models.row import Entry

TEXT: dict[str, Any] = {
    "vocab_size": 20, "output_vocab_size": 20, "emb_dim": 16, "num_heads": 2, "num_layers": 2,
    "qkv_dim": 16, "mlp_dim": 24, "max_len": 16,
}  # fmt: skip


def entries(folder: Path | None) -> list[Entry]:
    """Return the rows."""
    with_dtype: dict[str, Callable[..., Example]] = {
        "imagenet ResNet": _imagenet, "lm1b": _lm1b, "wmt": _wmt, "nlp_seq": _nlp_seq,
        "gemma": _gemma,
    }  # fmt: skip
    others: dict[str, Callable[..., Example]] = {
        "mnist": _mnist, "seq2seq": _seq2seq, "vae": _vae, "ppo": _ppo, "sst2": _sst2,
        "ogbg_molpcba GraphConvNet": partial(_graphs, "GraphConvNet"),
        "ogbg_molpcba GraphNet": partial(_graphs, "GraphNet"),
    }  # fmt: skip
    where = "" if folder is None else str(folder.resolve())

    def entry(name: str, dtype: str, build: Callable[..., Example], *how: Any) -> Entry:
        package = "jraph" if build in (others.get(name),) and "ogbg" in name else ""
        made = partial(build, Path(where) / "examples", *how)
        return Entry("flax examples", name, dtype, made, package, where)

    return [
        *(entry(name, "float32", build) for name, build in others.items()),
        *(entry(name, dtype, build, jnp.dtype(dtype))
          for dtype in ("float32", "bfloat16") for name, build in with_dtype.items()),
    ]  # fmt: skip


def _mnist(folder: Path) -> Example:
    from flax import nnx

    module = imported(folder / "mnist", "train")
    return of_nnx(module.CNN(nnx.Rngs(0)), noise(2, 28, 28, 1), rngs=None)


def _imagenet(folder: Path, dtype: Any) -> Example:
    module = imported(folder / "imagenet", "models")
    net = module.ResNet(
        stage_sizes=[2, 1], block_cls=module.BottleneckResNetBlock, num_classes=5, num_filters=8,
        dtype=dtype,
    )  # fmt: skip
    return linen(net, noise(2, 32, 32, 3), train=False)


def _lm1b(folder: Path, dtype: Any) -> Example:
    module = imported(folder / "lm1b", "models")
    config = module.TransformerConfig(
        **TEXT, dtype=dtype, deterministic=True, logits_via_embedding=True
    )
    return linen(module.TransformerLM(config), tokens(2, 6))


def _wmt(folder: Path, dtype: Any) -> Example:
    module = imported(folder / "wmt", "models")
    config = module.TransformerConfig(
        **TEXT, dtype=dtype, deterministic=True, share_embeddings=True
    )
    return linen(module.Transformer(config), tokens(2, 6), tokens(2, 5))


def _nlp_seq(folder: Path, dtype: Any) -> Example:
    module = imported(folder / "nlp_seq", "models")
    config = module.TransformerConfig(**TEXT, dtype=dtype)
    net = module.Transformer(config)
    variables = net.init(jax.random.key(0), inputs=tokens(2, 6), train=False)
    return Example(lambda v, ids: net.apply(v, inputs=ids, train=False), variables, (tokens(2, 6),))


def _gemma(folder: Path, dtype: Any) -> Example:
    from flax import nnx

    config = imported(folder / "gemma", "transformer_cfg")
    module = imported(folder / "gemma", "transformer")
    kinds = module.modules.AttentionType
    made = config.TransformerConfig(
        num_layers=2, num_embed=20, embed_dim=16, hidden_dim=24, num_heads=4, head_dim=4,
        num_kv_heads=2, final_logit_softcap=30.0, use_post_attn_norm=True, use_post_ffw_norm=True,
        attention_types=[kinds.GLOBAL, kinds.LOCAL_SLIDING], sliding_window_size=3, dtype=dtype,
    )  # fmt: skip
    ids = tokens(2, 6)
    mask = jnp.tril(jnp.ones((6, 6), bool))[None].repeat(2, 0)
    positions = jnp.arange(6)[None].repeat(2, 0)
    example = of_nnx(module.Transformer(made, rngs=nnx.Rngs(0)), ids)
    call = example.function
    return example._replace(function=lambda state, ids: call(state, ids, positions, None, mask)[0])


def _seq2seq(folder: Path) -> Example:
    module = imported(folder / "seq2seq", "models")
    net = module.Seq2seq(teacher_force=True, hidden_size=8, eos_id=1, vocab_size=10)
    one_hot: Any = jax.nn.one_hot(tokens(2, 5, among=10), 10)
    rngs = {"lstm": jax.random.key(0)}
    variables = net.init({"params": jax.random.key(0), **rngs}, one_hot, one_hot)
    return Example(lambda v, *x: net.apply(v, *x, rngs=rngs), variables, (one_hot, one_hot))


def _vae(folder: Path) -> Example:
    module = imported(folder / "vae", "models")
    net, key = module.VAE(latents=6), jax.random.key(0)
    images = noise(2, 784)
    variables = jax.jit(net.init)(key, images, key)
    return Example(lambda v, x: net.apply(v, x, key), variables, (images,))


def _ppo(folder: Path) -> Example:
    return linen(imported(folder / "ppo", "models").ActorCritic(num_outputs=4), noise(1, 84, 84, 4))


def _sst2(folder: Path) -> Example:
    module = imported(folder / "sst2", "models")
    net = module.TextClassifier(
        embedding_size=8, hidden_size=6, vocab_size=20, output_size=2, dropout_rate=0.0,
        word_dropout_rate=0.0, deterministic=True,
    )  # fmt: skip
    return linen(net, tokens(2, 6), jnp.array([6, 4]))


def _graphs(kind: str, folder: Path) -> Example:
    jraph: Any = importlib.import_module("jraph")

    module = imported(folder / "ogbg_molpcba", "models")
    net = getattr(module, kind)(
        latent_size=8, num_mlp_layers=2, message_passing_steps=2, output_globals_size=3
    )
    graphs = jraph.GraphsTuple(
        n_node=jnp.array([3, 2]), n_edge=jnp.array([4, 2]), nodes=noise(5, 4),
        edges=noise(6, 3), globals=noise(2, 2), senders=jnp.array([0, 1, 2, 0, 3, 4]),
        receivers=jnp.array([1, 2, 0, 2, 4, 3]),
    )  # fmt: skip
    variables = jax.jit(net.init)(jax.random.key(0), graphs)
    return Example(lambda v, x: net.apply(v, x).globals, variables, (graphs,))

"""Networks that come with Haiku, a transformer of its modules, and both in mixed precision."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.models.example import Example, noise, tokens
from experiments.benchmarks.models.row import Entry


def entries() -> list[Entry]:
    """Return the rows; bfloat16 is by a policy of jmp."""
    return [
        Entry("dm-haiku", name, dtype, partial(build, dtype), "haiku" if plain else "jmp")
        for dtype, plain in (("float32", True), ("bfloat16", False))
        for name, build in _BUILDS.items()
    ]


def _example(forward: Callable[..., Any], *inputs: jax.Array, train: Any = None) -> Example:
    """Return a function of Haiku's modules as an example; ``train`` is it in training."""
    hk: Any = importlib.import_module("haiku")

    model = hk.without_apply_rng(hk.transform_with_state(forward))
    # Running statistics start in training.
    init = model.init if train is None else hk.transform_with_state(train).init
    params, state = jax.jit(init)(jax.random.key(0), *inputs)

    def function(variables: Any, *inputs: jax.Array) -> Any:
        return model.apply(variables["params"], variables["state"], *inputs)[0]

    return Example(function, {"params": params, "state": state}, inputs)


def _in(dtype: str, *kinds: Any) -> None:
    """Let modules of these classes compute in a dtype, with weights in float32.

    Batch norms stay in float32, as Haiku's documentation has them: their running statistics decay
    by 0.999, which is 1 in bfloat16, and so become 0 / 0.
    """
    hk: Any = importlib.import_module("haiku")

    for kind in (*kinds, hk.BatchNorm, hk.ExponentialMovingAverage):
        hk.mixed_precision.clear_policy(kind)
        if dtype != "float32":
            jmp: Any = importlib.import_module("jmp")

            low = jnp.dtype(dtype) if kind in kinds else jnp.float32
            out = jnp.float32 if kind is hk.ExponentialMovingAverage else jnp.dtype(dtype)
            policy = jmp.Policy(param_dtype=jnp.float32, compute_dtype=low, output_dtype=out)
            hk.mixed_precision.set_policy(kind, policy)


def _mlp(dtype: str) -> Example:
    hk: Any = importlib.import_module("haiku")

    _in(dtype, hk.nets.MLP)
    return _example(lambda x: hk.nets.MLP((12, 8, 5))(x), noise(3, 6))


def _resnet(dtype: str) -> Example:
    hk: Any = importlib.import_module("haiku")

    _in(dtype, hk.nets.ResNet)
    sizes: dict[str, Any] = {
        "blocks_per_group": (2, 1, 1, 1), "channels_per_group": (8, 16, 16, 16), "num_classes": 5,
    }  # fmt: skip
    return _classifier(lambda: hk.nets.ResNet(**sizes), noise(2, 32, 32, 3))


def _mobilenet(dtype: str) -> Example:
    hk: Any = importlib.import_module("haiku")

    _in(dtype, hk.nets.MobileNetV1)
    sizes: dict[str, Any] = {
        "strides": (1, 2, 1), "channels": (8, 8, 16), "num_classes": 5,
    }  # fmt: skip
    return _classifier(lambda: hk.nets.MobileNetV1(**sizes), noise(2, 16, 16, 3))


def _classifier(net: Callable[[], Any], images: jax.Array) -> Example:
    return _example(
        lambda x: net()(x, is_training=False), images, train=lambda x: net()(x, is_training=True)
    )


def _transformer(dtype: str) -> Example:
    hk: Any = importlib.import_module("haiku")

    kinds = (hk.Linear, hk.MultiHeadAttention, hk.LayerNorm, hk.Embed)
    _in(dtype, *kinds)

    def norm(x: jax.Array) -> jax.Array:
        return hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)

    def forward(ids: jax.Array) -> jax.Array:
        x = hk.Embed(20, 16)(ids)
        start = hk.initializers.VarianceScaling()
        for _ in range(2):
            y = norm(x)
            x = x + hk.MultiHeadAttention(2, 8, w_init=start, model_size=16)(y, y, y)
            x = x + hk.Linear(16)(jax.nn.gelu(hk.Linear(24)(norm(x))))
        return hk.Linear(20)(norm(x))

    return _example(forward, tokens(2, 6))


def _lstm(dtype: str) -> Example:
    hk: Any = importlib.import_module("haiku")

    _in(dtype, hk.Linear, hk.LSTM)

    def forward(x: jax.Array) -> jax.Array:
        core = hk.LSTM(6)
        states, _ = hk.dynamic_unroll(core, jax.nn.relu(hk.Linear(4)(x)), core.initial_state(2))
        return hk.Linear(3)(states)

    return _example(forward, noise(5, 2, 4))


_BUILDS = {
    "MLP": _mlp, "ResNet": _resnet, "MobileNetV1": _mobilenet, "transformer": _transformer,
    "LSTM": _lstm,
}  # fmt: skip

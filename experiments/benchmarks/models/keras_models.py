"""Keras on JAX: its applications, without their weights, and layers of other kinds."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.models.example import Example, noise, tokens
from experiments.benchmarks.models.row import Entry

APPLICATIONS: dict[str, dict[str, Any]] = {
    "MobileNet": {"alpha": 0.25},
    "MobileNetV2": {"alpha": 0.35},
    "MobileNetV3Small": {},
    "EfficientNetB0": {},
    "EfficientNetV2B0": {},
    "ResNet50": {},
    "ResNet50V2": {},
    "DenseNet121": {},
    "VGG16": {},
    "ConvNeXtTiny": {},
    "NASNetMobile": {},
    "Xception": {},
    "InceptionV3": {},
}
SIDES = {"Xception": 71, "InceptionV3": 75}
"""Of images, where 32 are too few."""
LOW = {"bfloat16": "mixed_bfloat16"}


def entries() -> list[Entry]:
    """Return the rows."""
    builds: dict[str, Callable[[Any], Any]] = {
        "attention": _attention, "separable": _separable, "GRU": _recurrent,
        **{name: partial(_application, name) for name in APPLICATIONS},
    }  # fmt: skip
    return [
        Entry("keras", name, dtype, partial(_build, build, dtype), "keras")
        for dtype in ("float32", "bfloat16")
        for name, build in builds.items()
    ]


def _build(build: Callable[[Any], tuple[Any, jax.Array]], dtype: str) -> Example:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras: Any = importlib.import_module("keras")

    if keras.backend.backend() != "jax":
        raise ImportError("set KERAS_BACKEND=jax")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(LOW.get(dtype, dtype))
    try:
        model, inputs = build(keras)
    finally:
        keras.config.set_dtype_policy(before)
    trained = [variable.path for variable in model.trainable_variables]
    others = [variable.path for variable in model.non_trainable_variables]

    def function(variables: Any, inputs: jax.Array) -> Any:
        values = ([variables[path] for path in paths] for paths in (trained, others))
        return model.stateless_call(*values, inputs, training=False)[0]

    held = [*model.trainable_variables, *model.non_trainable_variables]
    # The arrays are copied: Keras deletes its own with the model.
    return Example(function, {each.path: jnp.array(each.value) for each in held}, (inputs,))


def _application(name: str, keras: Any) -> tuple[Any, jax.Array]:
    side = SIDES.get(name, 32)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(side, side, 3), classes=5, **APPLICATIONS[name]
    )
    return model, noise(1, side, side, 3)


def _attention(keras: Any) -> tuple[Any, jax.Array]:
    layers = keras.layers
    ids = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 16)(ids)
    y = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(2, 8)(y, y)
    x = x + layers.GroupQueryAttention(4, 4, 2)(x, x)
    y = layers.Dense(24, activation="gelu")(layers.LayerNormalization()(x))
    x = x + layers.EinsumDense("btf,fd->btd", (None, 16), bias_axes="d")(y)
    return keras.Model(ids, layers.Dense(5)(layers.GlobalAveragePooling1D()(x))), tokens(2, 6)


def _separable(keras: Any) -> tuple[Any, jax.Array]:
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(8, 3, activation="relu")(image)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2DTranspose(6, 2, 2, activation="relu")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(layers.UpSampling2D()(x))
    x = layers.MaxPooling2D(4)(layers.PReLU(shared_axes=(1, 2))(x))
    return keras.Model(image, layers.Dense(5)(layers.Flatten()(x))), noise(2, 8, 8, 3)


def _recurrent(keras: Any) -> tuple[Any, jax.Array]:
    layers = keras.layers
    sequence = keras.Input((6, 4))
    x = layers.Conv1D(8, 3, padding="causal", activation="relu")(sequence)
    x = layers.Bidirectional(layers.GRU(6, return_sequences=True))(x)
    return keras.Model(sequence, layers.Dense(5)(layers.LSTM(6)(x))), noise(2, 6, 4)

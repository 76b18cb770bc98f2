"""The Flax models of Hugging Face transformers, from small configurations."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.benchmarks.models.example import Example, noise, tokens
from experiments.benchmarks.models.row import Entry

WIDE: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "vocab_size": 20, "max_position_embeddings": 16,
}  # fmt: skip
GROUPED = WIDE | {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
IMAGE: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip
PAIR: dict[str, Any] = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "vocab_size": 20,
    "max_position_embeddings": 16, "pad_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 2,
}  # fmt: skip
T5: dict[str, Any] = {
    "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 20,
    "decoder_start_token_id": 0,
}  # fmt: skip
STAGES: dict[str, Any] = {
    "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1], "num_channels": 3,
}  # fmt: skip
SPEECH = WIDE | {
    "conv_dim": (8, 8), "conv_stride": (3, 2), "conv_kernel": (4, 3), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "do_stable_layer_norm": True,
    "feat_extract_norm": "layer", "mask_time_prob": 0.0,
}  # fmt: skip


class _Made(NamedTuple):
    """How a model is made: its class without "Flax", its configuration, and what it is called with.

    Attributes:
      kind, settings: names of the class without "Flax" and of the configuration's fields.
      inputs: names and values of arguments.
      at_init: arguments of the class.
    """

    kind: str
    settings: dict[str, Any]
    inputs: Callable[[], dict[str, jax.Array]]
    at_init: Mapping[str, Any] = MappingProxyType({})


def entries() -> list[Entry]:
    """Return the rows."""
    return [
        Entry("transformers", name, dtype, partial(_build, made, dtype), "transformers")
        for dtype in ("float32", "bfloat16")
        for name, made in _MADE.items()
    ]


def _text() -> dict[str, jax.Array]:
    return {"input_ids": tokens(2, 6)}


def _texts() -> dict[str, jax.Array]:
    return {"input_ids": tokens(2, 6), "decoder_input_ids": tokens(2, 5, seed=2)}


def _images(size: int = 8) -> dict[str, jax.Array]:
    return {"pixel_values": noise(2, 3, size, size)}


def _text_and_images() -> dict[str, jax.Array]:
    return _text() | _images()


def _speech() -> dict[str, jax.Array]:
    return {"input_values": noise(2, 60)}


def _spectrum() -> dict[str, jax.Array]:
    return {"input_features": noise(2, 8, 12), "decoder_input_ids": tokens(2, 5)}


_MADE = {
    "BERT": _Made("BertForMaskedLM", WIDE, _text),
    "RoBERTa": _Made("RobertaForSequenceClassification", WIDE | {"pad_token_id": 1}, _text),
    "RoBERTa, norm first": _Made("RobertaPreLayerNormModel", WIDE | {"pad_token_id": 1}, _text),
    "XLM-RoBERTa": _Made("XLMRobertaModel", WIDE | {"pad_token_id": 1}, _text),
    "DistilBERT": _Made(
        "DistilBertForMaskedLM",
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "vocab_size": 20,
         "max_position_embeddings": 16},
        _text,
    ),
    "ALBERT": _Made("AlbertForMaskedLM", WIDE | {"embedding_size": 8}, _text),
    "ELECTRA": _Made("ElectraForPreTraining", WIDE | {"embedding_size": 8}, _text),
    "RoFormer": _Made("RoFormerForMaskedLM", WIDE | {"embedding_size": 16}, _text),
    "BigBird": _Made("BigBirdModel", WIDE | {"attention_type": "original_full"}, _text),
    "GPT-2": _Made(
        "GPT2LMHeadModel",
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 20, "n_positions": 16}, _text,
    ),
    "GPT-Neo": _Made(
        "GPTNeoForCausalLM",
        {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 20,
         "max_position_embeddings": 16, "attention_types": [[["global", "local"], 1]],
         "window_size": 4},
        _text,
    ),
    "GPT-J": _Made(
        "GPTJForCausalLM",
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 20, "n_positions": 16,
         "rotary_dim": 4},
        _text,
    ),
    "OPT": _Made(
        "OPTForCausalLM",
        WIDE | {"ffn_dim": 24, "word_embed_proj_dim": 16, "pad_token_id": 1}, _text,
    ),
    "BLOOM": _Made(
        "BloomForCausalLM", {"hidden_size": 16, "n_layer": 2, "n_head": 2, "vocab_size": 20},
        lambda: _text() | {"attention_mask": jnp.ones((2, 6), jnp.int32)},
    ),
    "XGLM": _Made(
        "XGLMForCausalLM",
        {"d_model": 16, "ffn_dim": 24, "num_layers": 2, "attention_heads": 2, "vocab_size": 20,
         "max_position_embeddings": 16},
        _text,
    ),
    "Llama": _Made("LlamaForCausalLM", GROUPED, _text),
    "Mistral": _Made("MistralForCausalLM", GROUPED, _text),
    "Gemma": _Made("GemmaForCausalLM", GROUPED | {"head_dim": 4}, _text),
    "T5": _Made("T5ForConditionalGeneration", T5, _texts),
    "T5 1.1": _Made(
        "T5ForConditionalGeneration",
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, _texts,
    ),
    "mT5": _Made("MT5Model", T5, _texts),
    "LongT5": _Made("LongT5Model", T5 | {"local_radius": 3}, _texts),
    "BART": _Made("BartForConditionalGeneration", PAIR, _texts),
    "mBART": _Made("MBartForConditionalGeneration", PAIR, _texts),
    "Marian": _Made("MarianMTModel", PAIR, _texts),
    "Pegasus": _Made("PegasusForConditionalGeneration", PAIR, _texts),
    "Blenderbot": _Made("BlenderbotForConditionalGeneration", PAIR, _texts),
    "Blenderbot small": _Made("BlenderbotSmallForConditionalGeneration", PAIR, _texts),
    "ViT": _Made("ViTForImageClassification", IMAGE, _images),
    "BEiT": _Made(
        "BeitForImageClassification",
        IMAGE | {"use_relative_position_bias": True, "use_mask_token": True}, _images,
    ),
    "ResNet": _Made(
        "ResNetForImageClassification", STAGES | {"layer_type": "bottleneck"},
        partial(_images, 32),
    ),
    "ResNet, basic": _Made(
        "ResNetForImageClassification", STAGES | {"layer_type": "basic"}, partial(_images, 32)
    ),
    "RegNet": _Made(
        "RegNetForImageClassification", STAGES | {"groups_width": 4}, partial(_images, 32)
    ),
    "CLIP": _Made(
        "CLIPModel",
        {"text_config": WIDE, "vision_config": IMAGE, "projection_dim": 8}, _text_and_images,
    ),
    "CLIP, vision": _Made("CLIPVisionModel", IMAGE, _images),
    "Wav2Vec2": _Made("Wav2Vec2ForCTC", SPEECH, _speech, {"input_shape": (1, 60)}),
    "Whisper": _Made(
        "WhisperForConditionalGeneration",
        PAIR | {"num_mel_bins": 8, "max_source_positions": 6, "max_target_positions": 8},
        _spectrum,
        {"input_shape": (1, 8, 12)},
    ),
}  # fmt: skip


def _build(made: _Made, dtype: str) -> Example:
    transformers: Any = importlib.import_module("transformers")

    transformers.logging.set_verbosity_error()
    _let_clip_take_old_names()
    kind = getattr(transformers, f"Flax{made.kind}")
    config = kind.config_class(**made.settings)
    if made.kind.startswith("GPT2") or made.kind.startswith("Bloom"):
        config.use_cache = False
    model = kind(config, seed=0, dtype=jnp.dtype(dtype), **made.at_init)
    given = made.inputs()
    takes = inspect.signature(type(model).__call__).parameters
    static = {"train": False} if "train" in takes else {}

    def function(variables: Any, *inputs: jax.Array) -> Any:
        named = dict(zip(given, inputs, strict=True))
        found = model(**named, params=variables, **static)
        return jax.tree.leaves(tuple(found.values()) if hasattr(found, "values") else found)

    return Example(function, model.params, tuple(given.values()))


def _let_clip_take_old_names() -> None:
    """Let `jnp.clip` take the names of arguments that JAX no longer knows, and T5 still uses."""
    clip: Any = jnp.clip
    if getattr(clip, "takes_old_names", False):
        return

    def lenient(x: Any, *bounds: Any, a_min: Any = None, a_max: Any = None, **named: Any) -> Any:
        named |= {} if a_min is None else {"min": a_min}
        named |= {} if a_max is None else {"max": a_max}
        return clip(x, *bounds, **named)

    setattr(lenient, "takes_old_names", True)  # noqa: B010
    setattr(jnp, "clip", lenient)  # noqa: B010 - mypy knows the other type

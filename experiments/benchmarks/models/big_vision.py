"""Models of big_vision, from a checkout of its repository."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from experiments.benchmarks.models.checkouts import imported
from experiments.benchmarks.models.example import Example, noise, tokens
from experiments.benchmarks.models.flax_layers import linen
from experiments.benchmarks.models.row import Entry

TOWER: dict[str, Any] = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2}


def entries(folder: Path | None) -> list[Entry]:
    """Return the rows."""
    where = "" if folder is None else str(folder.resolve())
    kinds: dict[str, Callable[[Path, str], Example]] = {
        "ViT": partial(_vit, {"pool_type": "gap"}),
        "ViT, scanned": partial(_vit, {"pool_type": "map", "scan": True}),
        "text": _text,
    }
    plain: dict[str, Callable[[Path], Example]] = {"BiT": _bit, "MLP-Mixer": _mixer}
    return [
        *(Entry("big_vision", name, "float32", partial(build, Path(where)), "", where)
          for name, build in plain.items()),
        *(Entry("big_vision", name, dtype, partial(made, Path(where), dtype), "", where)
          for dtype in ("float32", "bfloat16") for name, made in kinds.items()),
    ]  # fmt: skip


def _vit(how: dict[str, Any], folder: Path, dtype: str) -> Example:
    module = imported(folder, "big_vision.models.vit")
    net = module.Model(num_classes=5, patch_size=(4, 4), dtype_mm=dtype, **TOWER, **how)
    return linen(net, noise(2, 8, 8, 3))


def _text(folder: Path, dtype: str) -> Example:
    # Its head reads the last token.
    module = imported(folder, "big_vision.models.proj.image_text.text_transformer")
    net = module.Model(num_classes=8, vocab_size=20, **TOWER)
    return linen(net, tokens(2, 6))


def _bit(folder: Path) -> Example:
    module = imported(folder, "big_vision.models.bit")
    return linen(module.Model(num_classes=5, width=0.5, depth=[1, 1, 1, 1]), noise(1, 32, 32, 3))


def _mixer(folder: Path) -> Example:
    module = imported(folder, "big_vision.models.mlp_mixer")
    net = module.Model(
        num_classes=5, patch_size=(4, 4), num_blocks=2, hidden_dim=16, tokens_mlp_dim=8,
        channels_mlp_dim=24,
    )  # fmt: skip
    return linen(net, noise(2, 8, 8, 3))

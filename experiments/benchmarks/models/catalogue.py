"""All models that can be tried."""

from __future__ import annotations

from pathlib import Path

from experiments.benchmarks.models import (
    big_vision,
    equinox_models,
    flax_examples,
    flax_layers,
    haiku_models,
    keras_models,
    large,
    transformers_models,
)
from experiments.benchmarks.models.row import Entry


def entries(big_vision_folder: Path | None, flax_folder: Path | None) -> list[Entry]:
    """Return what can be tried, library by library.

    Args:
      big_vision_folder, flax_folder: of checkouts; without them their rows say so.
    """
    return [
        *flax_layers.entries(),
        *flax_examples.entries(flax_folder),
        *haiku_models.entries(),
        *equinox_models.entries(),
        *transformers_models.entries(),
        *big_vision.entries(big_vision_folder),
        *keras_models.entries(),
        *large.entries(),
    ]

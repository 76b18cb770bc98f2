"""All models that can be tried."""

from __future__ import annotations

from pathlib import Path

from experiments.benchmarks.models import equinox_models, flax_layers, transformers_models
from experiments.benchmarks.models.row import Entry


def entries(big_vision_folder: Path | None, flax_folder: Path | None) -> list[Entry]:
    """Return what can be tried, library by library.

    Args:
      big_vision_folder, flax_folder: of checkouts; without them their rows say so.
    """
    return [
        *flax_layers.entries(),
        *equinox_models.entries(),
        *transformers_models.entries(),
    ]
